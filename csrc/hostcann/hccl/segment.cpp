#include "hostcann/hccl/segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "hostcann/hccl/process.h"

namespace hostcann::hccl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kPrefix[] = "ascendspeed_hccl_";
constexpr uint32_t kReady = 0x48434c01;  // the last byte is the version of the layout
constexpr uint64_t kAllRings =
    4 << 20;  // what the rings of a communicator may take together, where 4 KiB each allow it

uint64_t ring_bytes_for(uint64_t ranks) {
  const uint64_t rings = 2 * ranks * ranks;
  uint64_t bytes = 256 << 10;
  while (bytes > 4096 && bytes * rings > kAllRings) bytes /= 2;
  return bytes;
}

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

std::string system_error(const std::string& what) { return what + ": " + std::generic_category().message(errno); }

// Whether the open file still has a name.
bool is_named(int file) {
  struct stat status{};
  return fstat(file, &status) == 0 && status.st_nlink > 0;
}

}  // namespace

struct Segment::Header {
  std::atomic<uint32_t> ready;
  uint32_t ranks;
  uint64_t group;
  std::atomic<uint32_t> joined;
  std::atomic<uint32_t> failed;  // 0 no, 1 being written, 2 yes
  int32_t failure_code;
  char failure_message[1024];
};

struct alignas(64) Segment::Slot {
  std::atomic<uint32_t> taken;
  std::atomic<uint32_t> present;  // 0 not yet, 1 attached, 2 left
  std::atomic<uint32_t> doorbell;
  std::atomic<uint32_t> waiting;  // threads that wait for the doorbell
  ProcessIdentity process;
  int32_t device;
};

uint64_t Segment::bytes_for(uint64_t ranks) {
  const uint64_t rings = 2 * ranks * ranks * (sizeof(Ring) + ring_bytes_for(ranks));
  return ((sizeof(Header) + 63) / 64 * 64 + ranks * sizeof(Slot) + rings + 4095) / 4096 * 4096;
}

static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<uint64_t>::is_always_lock_free);

std::unique_ptr<Segment> Segment::attach(const Membership& member, std::chrono::seconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  std::unique_ptr<Segment> segment(new Segment(member));
  try {
    segment->open(deadline);
    segment->enter();
    segment->wait_for_all(deadline, timeout);
    segment->refuse_shared_devices();
  } catch (const Error& error) {
    segment->fail(error);
    segment->unlink();
    throw;
  }
  close(segment->file_);  // with it the lock
  segment->file_ = -1;
  return segment;
}

// Opens or creates the segment and maps it; whoever creates it fills in the header.
void Segment::open(Clock::time_point deadline) {
  const std::string path = "/" + member_.name;
  bool created = false;
  while (true) {
    file_ = shm_open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    created = file_ >= 0;
    if (!created) file_ = shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0600);
    if (file_ < 0 && errno == ENOENT) continue;  // removed in between
    if (file_ < 0) throw Error(HCCL_E_OPEN_FILE_FAILURE, system_error("shared memory " + path));
    // What is not locked may be taken for a left-over and removed, even between shm_open and here.
    while (flock(file_, LOCK_SH) != 0 && errno == EINTR) continue;
    if (is_named(file_)) break;
    close(file_);
  }
  if (created) {
    create_contents();
    return;
  }
  // The creator may not be done, and may count other ranks than this one: its layout holds.
  uint32_t found[2] = {0, 0};
  while (pread(file_, found, sizeof(found), 0) != sizeof(found) || found[0] == 0) {
    if (Clock::now() > deadline) {
      throw Error(HCCL_E_TIMEOUT, "shared memory " + path + " was never filled in: the rank that made it has ended");
    }
    usleep(1000);
  }
  if (found[0] != kReady) throw Error(HCCL_E_PARA, "shared memory " + path + " has another version of this library");
  map(found[1]);
}

void Segment::map(uint32_t ranks) {
  bytes_ = bytes_for(ranks);
  void* const address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (address == MAP_FAILED) throw Error(HCCL_E_MEMORY, system_error("mapping /dev/shm/" + member_.name));
  base_ = static_cast<char*>(address);
}

void Segment::create_contents() {
  // Reserved now, an exhausted /dev/shm is this error; otherwise it would be a bus error in the middle of a collective.
  const uint64_t bytes = bytes_for(member_.ranks);
  if (const int failed = posix_fallocate(file_, 0, static_cast<off_t>(bytes)); failed != 0) {
    throw Error(HCCL_E_MEMORY, "no room for " + std::to_string(bytes) +
                                   " bytes in /dev/shm: " + std::generic_category().message(failed));
  }
  map(member_.ranks);
  header().ranks = member_.ranks;
  header().group = member_.group;
  header().ready.store(kReady, std::memory_order_release);
}

void Segment::enter() {
  if (header().ranks != member_.ranks) {
    throw Error(HCCL_E_PARA, "nRanks=" + std::to_string(member_.ranks) + " of rank " + std::to_string(member_.rank) +
                                 " is not the nRanks=" + std::to_string(header().ranks) + " of the first rank");
  }
  if (header().group != member_.group) {
    throw Error(HCCL_E_PARA, "rankIds of rank " + std::to_string(member_.rank) + " are not those of the first rank");
  }
  Slot& mine = slot(member_.rank);
  if (mine.taken.exchange(1) != 0) {
    throw Error(HCCL_E_PARA, "rank=" + std::to_string(member_.rank) + " is taken by process " +
                                 std::to_string(mine.process.pid) + ", a rank can be there once");
  }
  mine.process = this_process();
  mine.device = member_.device;
  mine.present.store(1, std::memory_order_release);
  entered_ = true;
  header().joined.fetch_add(1);
  ring_all_doorbells();
}

void Segment::wait_for_all(Clock::time_point deadline, std::chrono::seconds timeout) {
  while (header().joined.load() < member_.ranks) {
    const uint32_t seen = doorbell();
    if (const std::optional<Error> error = failure()) throw *error;
    std::string missing;
    for (uint32_t each = 0; each < member_.ranks; ++each) {
      if (slot(each).present.load() == 0) missing += (missing.empty() ? "" : ", ") + std::to_string(each);
      if (peer(each) != Peer::kDead) continue;
      throw Error(HCCL_E_REMOTE, "rank " + std::to_string(each) + " (process " + std::to_string(process(each)) +
                                     ") has died while the communicator was made");
    }
    if (Clock::now() > deadline) {
      throw Error(HCCL_E_TIMEOUT, "rank " + missing + " of " + std::to_string(member_.ranks) + " did not come within " +
                                      std::to_string(timeout.count()) + " s (HCCL_CONNECT_TIMEOUT)");
    }
    if (header().joined.load() < member_.ranks) wait(seen, milliseconds(20));
  }
  unlink();  // every rank does, the first to come here succeeds: it may be killed before it comes here
  if (const std::optional<Error> error = failure()) throw *error;
}

void Segment::refuse_shared_devices() const {
  for (uint32_t a = 0; a < member_.ranks; ++a) {
    for (uint32_t b = a + 1; b < member_.ranks; ++b) {
      if (slot(a).device != slot(b).device) continue;
      throw Error(HCCL_E_PARA, "ranks " + std::to_string(a) + " and " + std::to_string(b) + " are both on device " +
                                   std::to_string(slot(a).device) + ", a rank needs a device of its own");
    }
  }
}

void Segment::unlink() const {
  // By then the name may belong to a segment that another attempt has made.
  if (file_ >= 0 && is_named(file_)) shm_unlink(("/" + member_.name).c_str());
}

Segment::~Segment() {
  if (file_ >= 0) close(file_);
  if (base_ == nullptr) return;
  if (entered_) {
    slot(member_.rank).present.store(2, std::memory_order_release);
    ring_all_doorbells();
  }
  munmap(base_, bytes_);
}

Segment::Header& Segment::header() const { return *reinterpret_cast<Header*>(base_); }

Segment::Slot& Segment::slot(uint32_t rank) const {
  return reinterpret_cast<Slot*>(base_ + (sizeof(Header) + 63) / 64 * 64)[rank];
}

uint64_t Segment::ring_bytes() const { return ring_bytes_for(header().ranks); }

Ring& Segment::ring(Channel channel, uint32_t from, uint32_t to) {
  const uint64_t ranks = header().ranks;
  const uint64_t index = (static_cast<uint64_t>(channel) * ranks + from) * ranks + to;
  return *reinterpret_cast<Ring*>(reinterpret_cast<char*>(&slot(header().ranks)) +
                                  index * (sizeof(Ring) + ring_bytes()));
}

void Segment::fail(const Error& error) noexcept {
  if (base_ == nullptr) return;
  Header& h = header();
  uint32_t none = 0;
  if (!h.failed.compare_exchange_strong(none, 1)) return;
  h.failure_code = error.code;
  std::strncpy(h.failure_message, error.what(), sizeof(h.failure_message) - 1);
  h.failed.store(2, std::memory_order_release);
  ring_all_doorbells();
}

std::optional<Error> Segment::failure() const {
  if (header().failed.load(std::memory_order_acquire) != 2) return std::nullopt;
  return Error(static_cast<HcclResult>(header().failure_code), header().failure_message);
}

uint32_t Segment::doorbell() const { return slot(member_.rank).doorbell.load(); }

void Segment::wait(uint32_t seen, milliseconds at_most) {
  Slot& mine = slot(member_.rank);
  const timespec timeout{at_most.count() / 1000, at_most.count() % 1000 * 1000000};
  mine.waiting.fetch_add(1);
  futex(mine.doorbell, FUTEX_WAIT, seen, &timeout);
  mine.waiting.fetch_sub(1);
}

void Segment::ring_doorbell(uint32_t rank) {
  Slot& theirs = slot(rank);
  theirs.doorbell.fetch_add(1);
  if (theirs.waiting.load() > 0) futex(theirs.doorbell, FUTEX_WAKE, INT_MAX, nullptr);
}

void Segment::ring_all_doorbells() {
  for (uint32_t each = 0; each < header().ranks; ++each) ring_doorbell(each);
}

Peer Segment::peer(uint32_t rank) const {
  const uint32_t present = slot(rank).present.load(std::memory_order_acquire);
  if (present == 2) return Peer::kLeft;
  return present == 0 || is_alive(slot(rank).process) ? Peer::kAlive : Peer::kDead;
}

int Segment::process(uint32_t rank) const { return slot(rank).process.pid; }

std::string new_segment_name() {
  unsigned char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) throw Error(HCCL_E_SYSCALL, system_error("getrandom"));
  std::string name = kPrefix;
  for (const unsigned char byte : random) {
    name += "0123456789abcdef"[byte >> 4];
    name += "0123456789abcdef"[byte & 15];
  }
  return name;
}

bool is_segment_name(const std::string& name) {
  return name.size() == sizeof(kPrefix) - 1 + 32 && name.starts_with(kPrefix) &&
         name.find_first_not_of("0123456789abcdef", sizeof(kPrefix) - 1) == std::string::npos;
}

void remove_abandoned_segments() {
  std::error_code ignored;  // a folder that cannot be listed holds nothing of ours
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    const int file = shm_open(("/" + name).c_str(), O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) continue;  // another user's, or gone
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && is_named(file)) shm_unlink(("/" + name).c_str());
    close(file);
  }
}

}  // namespace hostcann::hccl

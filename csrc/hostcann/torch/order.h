// Work of the calling thread after what torch_npu has put on the current streams: a kernel of the host runs at once, on
// the thread that calls it, while torch_npu's own work waits in a task queue and then on a stream.
#pragma once

#include <c10/core/Device.h>

#include <vector>

namespace hostcann {

// Returns when the task queue is empty and the current stream of each device has done all its work. A stream that has
// failed throws what torch_npu makes of that.
void wait_for_current_streams(const std::vector<c10::Device>& devices);

// The device itself, or the current one where the index is left open.
c10::Device with_index(c10::Device device);

}  // namespace hostcann

// The live communicators of this process, by handle, and how an exported function runs: exceptions become its result.
#pragma once

#include <memory>
#include <new>
#include <string>

#include "hostcann/acl/stream.h"
#include "hostcann/hccl/communicator.h"

namespace hostcann::hccl {

HcclComm add(std::shared_ptr<Communicator> communicator);
std::shared_ptr<Communicator> find(HcclComm handle);  // Error HCCL_E_PTR for null, HCCL_E_PARA for what is not alive
void remove(HcclComm handle);                         // likewise

template <class Body>
HcclResult guarded(const char* function, Body&& body) {
  HcclResult code = HCCL_SUCCESS;
  std::string message;
  try {
    body();
    return HCCL_SUCCESS;
  } catch (const Error& error) {
    code = error.code;
    message = error.what();
  } catch (const std::bad_alloc&) {
    code = HCCL_E_MEMORY;
    message = "no host memory";
  } catch (const std::exception& error) {
    code = HCCL_E_INTERNAL;
    message = error.what();
  }
  set_error(std::string(function) + ": " + message);
  return code;
}

template <class Pointer>
void require(const char* name, Pointer* pointer) {
  if (pointer == nullptr) throw Error(HCCL_E_PTR, std::string(name) + " is null");
}

}  // namespace hostcann::hccl

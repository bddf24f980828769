// The source of CANN's smaller libraries, which torch_npu is linked against or opens by name: all they offer is in
// libascendcl.so, on which each of them depends.

/* The runtime of CANN as a program includes it; what is declared here is what libascendcl.so implements. */
#ifndef ASCENDSPEED_HOSTCANN_ACL_H
#define ASCENDSPEED_HOSTCANN_ACL_H

#include "acl/acl_base.h"
#include "acl/acl_rt.h"

#endif

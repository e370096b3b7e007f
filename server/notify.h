// SPDX-License-Identifier: Apache-2.0
//
// Tells the service manager how far the daemon is (sd_notify(3), Type=notify).
#ifndef PARKWAY_SERVER_NOTIFY_H_
#define PARKWAY_SERVER_NOTIFY_H_

#include <string_view>

namespace parkway {

// Sends `state` ("READY=1") to the socket named by $NOTIFY_SOCKET; does nothing where there is
// none. Failure is not worth more than a line on stderr.
void NotifyServiceManager(std::string_view state);

}  // namespace parkway

#endif  // PARKWAY_SERVER_NOTIFY_H_

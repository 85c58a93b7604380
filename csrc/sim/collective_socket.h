// TCP sockets as the ranks of a group use them: IPv4, whole structures, time limits.
#pragma once

#include <netinet/in.h>

#include <string>

#include "sim/collective_process.h"

namespace mix::sim {

struct Address {
  uint32_t host = 0;  // network order, as are both
  uint16_t port = 0;
};

std::string text_of(const Address& address);
// The address that other hosts reach this one at: MIX_SIM_HOST, else that of the default route, else 127.0.0.1.
uint32_t own_host();
// Listens at `host`, or everywhere if this machine does not bear that address; sets the port it got.
File listen_at(Address& address);
// Throws CollectiveError naming `whom`.
File connect_to(const Address& address, const std::string& whom, double limit_s);
// The next connection, or an empty File after `timeout_ms`.
File accept_within(const File& listener, int timeout_ms);
Address local_address(const File& socket);
Address remote_address(const File& socket);

enum class Moved { all, closed, late };
// Moves exactly `bytes`, or says why not.
Moved send_within(const File& socket, const void* data, size_t bytes, double limit_s);
Moved recv_within(const File& socket, void* data, size_t bytes, double limit_s);

}  // namespace mix::sim

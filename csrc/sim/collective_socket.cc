#include "sim/collective_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "sim/collective.h"

namespace mix::sim {
namespace {

sockaddr_in raw(const Address& address) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_addr.s_addr = address.host;
  result.sin_port = address.port;
  return result;
}

File new_socket(int type) {
  File socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  if (!socket) throw CollectiveError("no socket for collectives: " + error_text(errno));
  return socket;
}

void send_small_frames_at_once(const File& socket) {
  const int on = 1;
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

uint32_t resolve(const char* name) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(name, nullptr, &hints, &found);
  if (error != 0)
    throw CollectiveError(std::string("MIX_SIM_HOST is \"") + name + "\", which is no IPv4 address or host name (" +
                          gai_strerror(error) + ")");
  const uint32_t host = reinterpret_cast<sockaddr_in*>(found->ai_addr)->sin_addr.s_addr;
  freeaddrinfo(found);
  return host;
}

Address address_by(int (*ask)(int, sockaddr*, socklen_t*), const File& socket) {
  sockaddr_in found{};
  socklen_t bytes = sizeof(found);
  if (ask(socket.get(), reinterpret_cast<sockaddr*>(&found), &bytes) != 0)
    throw CollectiveError("address of a socket: " + error_text(errno));
  return {found.sin_addr.s_addr, found.sin_port};
}

bool is_ready(const File& socket, short events, int timeout_ms) {
  pollfd waiting{socket.get(), events, 0};
  return poll(&waiting, 1, timeout_ms) > 0;
}

// `move` is send or recv without waiting, as bytes done or -1.
template <typename Move>
Moved move_all(const File& socket, size_t bytes, double limit_s, short events, Move move) {
  Watch watch(limit_s);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = move(done);
    if (n > 0) {
      done += n;
    } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (watch.is_over()) return Moved::late;
      is_ready(socket, events, static_cast<int>(Watch::kInterval.count()));
    } else {
      return Moved::closed;
    }
  }
  return Moved::all;
}

}  // namespace

std::string text_of(const Address& address) {
  char text[INET_ADDRSTRLEN];
  const in_addr host{address.host};
  return std::string(inet_ntop(AF_INET, &host, text, sizeof(text))) + ":" + std::to_string(ntohs(address.port));
}

uint32_t own_host() {
  const char* named = std::getenv("MIX_SIM_HOST");
  if (named != nullptr && *named != '\0') return resolve(named);
  // a connected datagram socket has the address of the route and sends nothing; 192.0.2.1 is no one's (RFC 5737)
  const File probe = new_socket(SOCK_DGRAM);
  const sockaddr_in far = raw({inet_addr("192.0.2.1"), htons(9)});
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&far), sizeof(far)) != 0) return htonl(INADDR_LOOPBACK);
  return local_address(probe).host;
}

File listen_at(Address& address) {
  File socket = new_socket(SOCK_STREAM);
  sockaddr_in at = raw({address.host, 0});
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) != 0) {
    at.sin_addr.s_addr = htonl(INADDR_ANY);
    if (bind(socket.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) != 0)
      throw CollectiveError("no port for collectives: " + error_text(errno));
  }
  if (listen(socket.get(), SOMAXCONN) != 0) throw CollectiveError("cannot listen: " + error_text(errno));
  address.port = local_address(socket).port;
  return socket;
}

File connect_to(const Address& address, const std::string& whom, double limit_s) {
  File socket = new_socket(SOCK_STREAM);
  const sockaddr_in at = raw(address);
  const int flags = fcntl(socket.get(), F_GETFL);
  fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
  int error = 0;
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0) {
    error = errno;
    if (error == EINPROGRESS) {
      socklen_t bytes = sizeof(error);
      if (!is_ready(socket, POLLOUT, static_cast<int>(limit_s * 1000)))
        error = ETIMEDOUT;
      else
        getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    }
  }
  if (error != 0)
    throw CollectiveError("cannot reach " + whom + " at " + text_of(address) + " (" + error_text(error) +
                          "); MIX_SIM_HOST sets the address that rank 0 gives to the others");
  fcntl(socket.get(), F_SETFL, flags);
  send_small_frames_at_once(socket);
  return socket;
}

File accept_within(const File& listener, int timeout_ms) {
  if (!is_ready(listener, POLLIN, timeout_ms)) return File();
  File socket(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket) send_small_frames_at_once(socket);
  return socket;
}

Address local_address(const File& socket) { return address_by(getsockname, socket); }
Address remote_address(const File& socket) { return address_by(getpeername, socket); }

Moved send_within(const File& socket, const void* data, size_t bytes, double limit_s) {
  return move_all(socket, bytes, limit_s, POLLOUT, [&](size_t done) {
    return send(socket.get(), static_cast<const char*>(data) + done, bytes - done, MSG_NOSIGNAL | MSG_DONTWAIT);
  });
}

Moved recv_within(const File& socket, void* data, size_t bytes, double limit_s) {
  return move_all(socket, bytes, limit_s, POLLIN, [&](size_t done) {
    return recv(socket.get(), static_cast<char*>(data) + done, bytes - done, MSG_DONTWAIT);
  });
}

}  // namespace mix::sim

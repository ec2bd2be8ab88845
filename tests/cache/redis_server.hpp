// A Redis server of a test's own, on loopback, and a server that answers what it likes.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "command/scratch_folder.hpp"

namespace blockattn_test {

/// A socket that listens on a free port of loopback.
inline std::pair<int, int> listening_socket() {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ::sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::socklen_t size = sizeof(address);
  if (listener < 0 || ::bind(listener, reinterpret_cast<::sockaddr*>(&address), size) != 0 || ::listen(listener, 16) != 0 ||
      ::getsockname(listener, reinterpret_cast<::sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("can't listen on loopback");
  return {listener, ntohs(address.sin_port)};
}

/// redis-server, in memory only. Started by the constructor, ended by the destructor.
class redis_server {
 public:
  explicit redis_server(std::vector<std::string> more = {}) : more_(std::move(more)) {
    const auto [listener, port] = listening_socket();
    ::close(listener);  // free a moment ago
    port_ = port;
    start();
  }
  ~redis_server() { stop(); }
  redis_server(const redis_server&) = delete;
  redis_server& operator=(const redis_server&) = delete;

  [[nodiscard]] int port() const { return port_; }
  [[nodiscard]] static bool installed() { return ::access("/usr/bin/redis-server", X_OK) == 0; }

  void start() {
    child_ = ::fork();
    if (child_ < 0) throw std::runtime_error("fork failed");
    if (child_ == 0) become_server();
    for (int i = 0; i < 500 && !answers(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (!answers()) throw std::runtime_error("redis-server doesn't start");
  }
  void stop() {
    if (child_ <= 0) return;
    ::kill(child_, SIGCONT);
    ::kill(child_, SIGKILL);
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
  }
  /// It keeps its connections and answers nothing until it goes on.
  void pause() const { ::kill(child_, SIGSTOP); }
  void go_on() const { ::kill(child_, SIGCONT); }

 private:
  [[noreturn]] void become_server() const {
    std::vector<std::string> words = {"redis-server", "--port", std::to_string(port_), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder_.path().string(),
                                      "--logfile", (folder_ / "log").string()};
    words.insert(words.end(), more_.begin(), more_.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv("/usr/bin/redis-server", argv.data());
    ::_exit(127);
  }
  [[nodiscard]] bool answers() const {
    const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ::sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool open = ::connect(s, reinterpret_cast<::sockaddr*>(&address), sizeof(address)) == 0;
    ::close(s);
    return open;
  }

  scratch_folder folder_;
  std::vector<std::string> more_;
  int port_ = 0;
  pid_t child_ = -1;
};

/// Sends the same bytes to whoever says something, again and again.
class babbling_server {
 public:
  explicit babbling_server(std::string bytes) : bytes_(std::move(bytes)) {
    std::tie(listener_, port_) = listening_socket();
    thread_ = std::thread([this] { serve(); });
  }
  ~babbling_server() {
    ending_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  babbling_server(const babbling_server&) = delete;
  babbling_server& operator=(const babbling_server&) = delete;
  [[nodiscard]] int port() const { return port_; }

 private:
  void serve() {
    while (!ending_) {
      const int client = ::accept(listener_, nullptr, nullptr);
      if (client < 0) continue;
      ::timeval limit{0, 300000};
      ::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
      char buffer[65536];
      while (!ending_ && ::recv(client, buffer, sizeof(buffer), 0) > 0)
        if (::send(client, bytes_.data(), bytes_.size(), MSG_NOSIGNAL) < 0) break;
      ::close(client);
    }
  }
  std::string bytes_;
  int listener_ = -1, port_ = 0;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace blockattn_test

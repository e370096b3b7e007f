// SPDX-License-Identifier: Apache-2.0
//
// An echo server and a TCP proxy as one writes them with Boost.Asio: one thread, a callback per
// operation.
// Usage: asio PORT [BACKEND_HOST BACKEND_PORT]
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

namespace {

using boost::asio::ip::tcp;
using Error = boost::system::error_code;

constexpr size_t kBufferBytes = size_t{64} << 10;

// Moves one direction and passes its end on. The last one out closes both sockets.
class Relay : public std::enable_shared_from_this<Relay> {
 public:
  Relay(std::shared_ptr<tcp::socket> from, std::shared_ptr<tcp::socket> to)
      : from_(std::move(from)), to_(std::move(to)) {}

  void Read() {
    from_->async_read_some(boost::asio::buffer(buffer_),
                           [self = shared_from_this()](Error error, size_t size) {
                             if (error == boost::asio::error::eof) return self->Finish();
                             if (error) return self->Close();
                             self->Write(size);
                           });
  }

 private:
  void Write(size_t size) {
    boost::asio::async_write(*to_, boost::asio::buffer(buffer_, size),
                             [self = shared_from_this()](Error error, size_t) {
                               if (error) return self->Close();
                               self->Read();
                             });
  }

  void Finish() {
    Error ignored;
    to_->shutdown(tcp::socket::shutdown_send, ignored);
  }

  void Close() {
    Error ignored;
    from_->close(ignored);
    to_->close(ignored);
  }

  const std::shared_ptr<tcp::socket> from_;
  const std::shared_ptr<tcp::socket> to_;
  std::array<char, kBufferBytes> buffer_;
};

class Server {
 public:
  Server(boost::asio::io_context& context, uint16_t port, const tcp::endpoint* backend)
      : context_(context), backend_(backend), acceptor_(context, {tcp::v4(), port}) {}

  void Accept() {
    acceptor_.async_accept([this](Error error, tcp::socket client) {
      if (!error) Serve(std::make_shared<tcp::socket>(std::move(client)));
      Accept();
    });
  }

 private:
  void Serve(const std::shared_ptr<tcp::socket>& client) {
    client->set_option(tcp::no_delay(true));
    if (backend_ == nullptr) return std::make_shared<Relay>(client, client)->Read();
    auto backend = std::make_shared<tcp::socket>(context_);
    backend->async_connect(*backend_, [client, backend](Error error) {
      if (error) return;
      backend->set_option(tcp::no_delay(true));
      std::make_shared<Relay>(client, backend)->Read();
      std::make_shared<Relay>(backend, client)->Read();
    });
  }

  boost::asio::io_context& context_;
  const tcp::endpoint* const backend_;  // nullptr: echo
  tcp::acceptor acceptor_;
};

uint16_t Port(const char* text) { return static_cast<uint16_t>(std::atoi(text)); }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) return 2;
  boost::asio::io_context context(1);
  tcp::endpoint backend;
  if (argc == 4) backend = {boost::asio::ip::make_address(argv[2]), Port(argv[3])};
  Server server(context, Port(argv[1]), argc == 4 ? &backend : nullptr);
  server.Accept();
  context.run();
}

// SPDX-License-Identifier: Apache-2.0
#include "server/probe.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "netpoll/io_result.h"
#include "sched/clock.h"
#include "sched/fibers.h"

namespace parkway {
namespace {

using netpoll::Conn;
using netpoll::Endpoint;
using netpoll::IoResult;

constexpr size_t kAnswerMax = 16384;  // bytes looked at

std::string HttpRequest(const Endpoint& at, const RouteOptions& options) {
  std::string host = options.health_host;
  if (host.empty()) host = at.is_unix() ? "localhost" : at.ToString();
  return "GET " + options.health_path + " HTTP/1.1\r\nHost: " + host +
         "\r\nUser-Agent: parkway-health\r\nConnection: close\r\n\r\n";
}

// What stands in a log: its first line, in letters.
std::string Shown(std::string_view answer) {
  constexpr size_t kShown = 40;
  if (answer.empty()) return "nothing";
  std::string text(answer.substr(0, std::min(answer.find_first_of("\r\n"), kShown)));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '.');
  return "\"" + text + "\"";
}

// To a backend that expects a PROXY header: the check speaks for itself.
IoResult Introduce(Conn& conn, const Endpoint& at, SendProxy version) {
  if (version == SendProxy::kOff) return {};
  const std::string header =
      WriteProxyHeader(version, {.is_local = true, .source = conn.local(), .destination = at});
  return conn.Write(std::as_bytes(std::span(header)));
}

// Reads until `judge` has decided.
template <class Judge>
std::optional<std::string> Expect(Conn& conn, Judge judge) {
  std::string answer;
  std::array<std::byte, 1024> buffer;
  while (answer.size() < kAnswerMax) {
    const IoResult got = conn.Read(buffer);
    if (got.status == netpoll::IoStatus::kEof) break;
    if (got.is_local()) return std::nullopt;
    if (!got.ok()) return "answer: " + got.Reason();
    answer.append(reinterpret_cast<const char*>(buffer.data()), got.bytes);
    const Answer worth = judge(answer);
    if (worth == Answer::kGood) return std::string();
    if (worth == Answer::kBad) break;
  }
  return "answer: " + Shown(answer);
}

}  // namespace

Answer JudgeHttp(std::string_view answer) {
  constexpr std::string_view kStart = "HTTP/1.";
  constexpr size_t kCodeAt = 9;  // HTTP/1.1 200
  constexpr size_t kCodeEnd = 12;
  const size_t known = std::min(answer.size(), kStart.size());
  if (answer.substr(0, known) != kStart.substr(0, known)) return Answer::kBad;
  if (answer.size() < kCodeEnd) return Answer::kMore;
  const std::string_view code = answer.substr(kCodeAt, kCodeEnd - kCodeAt);
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool good = answer[kCodeAt - 1] == ' ' && (code[0] == '2' || code[0] == '3') &&
                    std::all_of(code.begin(), code.end(), is_digit);
  return good ? Answer::kGood : Answer::kBad;
}

std::optional<std::string> Probe(Conn& conn, Connector& connector, const Endpoint& backend,
                                 const RouteOptions& options) {
  const bool other_port = options.health_port != 0 && !backend.is_unix();
  const Endpoint at =
      other_port ? backend.WithPort(static_cast<uint16_t>(options.health_port)) : backend;
  const sched::Deadline deadline = sched::After(sched::Now(), options.health_timeout);
  const IoResult connected = connector.Connect(conn, at, deadline);
  if (connected.is_local()) return std::nullopt;
  if (!connected.ok()) return "connect: " + connected.Reason();
  conn.SetReadDeadline(deadline);
  conn.SetWriteDeadline(deadline);
  const IoResult introduced = Introduce(conn, at, options.send_proxy);
  if (introduced.is_local()) return std::nullopt;
  if (!introduced.ok()) return "PROXY header: " + introduced.Reason();
  const bool http = options.health == Health::kHttp;
  if (!http && options.health != Health::kTcp) return std::string();
  const std::string request = http ? HttpRequest(at, options) : options.health_send;
  const IoResult written = conn.Write(std::as_bytes(std::span(request)));
  if (written.is_local()) return std::nullopt;
  if (!written.ok()) return "request: " + written.Reason();
  if (http) return Expect(conn, JudgeHttp);
  if (options.health_expect.empty()) return std::string();
  return Expect(conn, [&](std::string_view answer) {
    return answer.find(options.health_expect) != answer.npos ? Answer::kGood : Answer::kMore;
  });
}

}  // namespace parkway

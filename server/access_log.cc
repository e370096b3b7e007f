// SPDX-License-Identifier: Apache-2.0
#include "server/access_log.h"

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstring>
#include <string>
#include <utility>

#include "sched/fibers.h"
#include "server/digits.h"
#include "server/rfc3339.h"

namespace parkway {
namespace {

bool IsPlain(char c) { return c > ' ' && c <= '~' && c != '"' && c != '\\'; }

// Eight bytes at a time (after Mycroft's test for a zero byte; Warren, Hacker's Delight, 6-1): in
// each sum or difference the high bit of a byte is set if that byte is not plain, or if it borrowed
// from, or for, one that is not.
bool AreAllPlain(const char* bytes, size_t size) {
  constexpr uint64_t kEach = 0x0101'0101'0101'0101;
  uint64_t odd = 0;
  for (size_t at = 0; at < size; at += sizeof odd) {
    uint64_t word;
    std::memcpy(&word, bytes + at, sizeof word);
    odd |= word | (word + kEach);     // beyond '~'
    odd |= word - kEach * (' ' + 1);  // up to ' '
    odd |= (word ^ (kEach * '"')) - kEach;
    odd |= (word ^ (kEach * '\\')) - kEach;
  }
  return (odd & (kEach * 0x80)) == 0;
}

// Writes at a place that has room for whatever is asked of it, at the cost of a few instructions
// per byte: every short connection pays for its line.
class LineWriter {
 public:
  explicit LineWriter(char* to) : at_(to) {}

  char* at() const { return at_; }

  void Char(char c) { *at_++ = c; }
  void Text(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
  }
  void Number(std::integral auto number) {
    if (number >= 0 && number < 10) return Char(static_cast<char>('0' + number));  // as most are
    constexpr int kDigitsMax = 20;
    at_ = std::to_chars(at_, at_ + kDigitsMax, number).ptr;
  }
  void Time(int64_t ns_since_1970) { at_ = WriteRfc3339(ns_since_1970, at_); }
  // Milliseconds, to the microsecond: "0.213".
  void Ms(sched::Duration span) {
    const auto ns = static_cast<uint64_t>(std::max<int64_t>(span.count(), 0));
    const uint64_t ms = ns / 1'000'000;
    const auto part = static_cast<uint32_t>(ns % 1'000'000) / 1000;
    Number(ms);
    char* const at = at_;
    at[0] = '.';
    at[1] = static_cast<char>('0' + part / 100);
    at_ = WriteTwoDigits(part % 100, at + 2);
  }
  // "192.0.2.7:1234", which most clients are.
  void Ipv4(const netpoll::CompactEndpoint& client) {
    for (const uint8_t part : client.bytes()) {
      Number(part);
      Char('.');
    }
    at_[-1] = ':';
    Number(client.port());
  }
  // What is not plain is `escape` and two digits.
  void Name(std::string_view name, std::string_view escape) {
    name = name.substr(0, kAccessNameMax);
    std::memcpy(at_, name.data(), name.size());
    std::memset(at_ + name.size(), '-', 7);  // there the last look may go beyond its end
    if (AreAllPlain(at_, name.size())) {
      at_ += name.size();
      return;
    }
    for (const char c : name) {
      if (IsPlain(c)) {
        Char(c);
        continue;
      }
      constexpr std::string_view kDigits = "0123456789abcdef";
      Text(escape);
      Char(kDigits[static_cast<unsigned char>(c) >> 4]);
      Char(kDigits[static_cast<unsigned char>(c) & 15]);
    }
  }
  void Client(const netpoll::CompactEndpoint& client, std::string_view escape) {
    if (client.family() == AF_INET) return Ipv4(client);
    // A Unix client has no address of its own.
    Name(client.family() == AF_UNIX ? "unix:" : client.Expand().ToString(), escape);
  }

 private:
  char* at_;
};

std::string_view NameOf(AccessEvent event) {
  constexpr std::string_view kNames[] = {"start", "progress", "end"};
  return kNames[static_cast<size_t>(event)];
}

// --- Text.

constexpr std::string_view kTextEscape = "\\x";

void Column(std::string_view name, char end, LineWriter& line) {
  line.Name(name.empty() ? "-" : name, kTextEscape);
  line.Char(end);
}

void Timer(sched::Duration span, char end, LineWriter& line) {
  if (span == AccessEntry::kNone) {
    line.Text("-1");
  } else {
    line.Ms(span);
  }
  line.Char(end);
}

void Count(std::integral auto count, char end, LineWriter& line) {
  line.Number(count);
  line.Char(end);
}

// In the order of HAProxy's tcplog: client, time, frontend, backend/server, timers, bytes,
// termination, counts.
void WriteText(const AccessEntry& entry, LineWriter& line) {
  line.Client(entry.client, kTextEscape);
  line.Text(" [");
  line.Time(entry.at_ns);
  line.Text("] ");
  Column(entry.listener, ' ', line);
  Column(entry.route, '/', line);
  Column(entry.backend, ' ', line);
  Timer(entry.queued, '/', line);
  Timer(entry.connect, '/', line);
  Timer(entry.first_byte, '/', line);
  Timer(entry.total, ' ', line);
  Count(entry.bytes_up, '/', line);
  Count(entry.bytes_down, ' ', line);
  line.Text(entry.reason.empty() ? NameOf(entry.event) : entry.reason);
  line.Char(' ');
  Count(entry.sessions, '/', line);
  Count(entry.retries, ' ', line);
  line.Number(entry.id);
  if (entry.greeted) {
    line.Char(' ');
    if (entry.proxy.family() == AF_UNSPEC) {
      line.Char('-');
    } else {
      line.Client(entry.proxy, kTextEscape);
    }
    line.Char(' ');
    line.Name(entry.server_name.empty() ? "-" : entry.server_name, kTextEscape);
  }
  line.Char('\n');
}

// --- JSON.

// Bytes beyond ASCII, which only the path of a Unix socket can hold, stand as the characters of
// their numbers: which encoding they are in is not known.
constexpr std::string_view kJsonEscape = "\\u00";

// `key` with its quotes and colon.
void StringField(std::string_view key, std::string_view value, LineWriter& line) {
  if (value.empty()) return;
  line.Text(key);
  line.Char('"');
  line.Name(value, kJsonEscape);
  line.Char('"');
}

void NumberField(std::string_view key, std::integral auto value, LineWriter& line) {
  line.Text(key);
  line.Number(value);
}

void SpanField(std::string_view key, sched::Duration span, LineWriter& line) {
  if (span == AccessEntry::kNone) return;
  line.Text(key);
  line.Ms(span);
}

void WriteJson(const AccessEntry& entry, LineWriter& line) {
  line.Text(R"({"time":")");
  line.Time(entry.at_ns);
  line.Char('"');
  StringField(R"(,"event":)", NameOf(entry.event), line);
  NumberField(R"(,"id":)", entry.id, line);
  line.Text(R"(,"client":")");
  line.Client(entry.client, kJsonEscape);
  line.Char('"');
  if (entry.proxy.family() != AF_UNSPEC) {
    line.Text(R"(,"proxy":")");
    line.Client(entry.proxy, kJsonEscape);
    line.Char('"');
  }
  StringField(R"(,"sni":)", entry.server_name, line);
  StringField(R"(,"listener":)", entry.listener, line);
  StringField(R"(,"route":)", entry.route, line);
  StringField(R"(,"backend":)", entry.backend, line);
  SpanField(R"(,"queue_ms":)", entry.queued, line);
  SpanField(R"(,"connect_ms":)", entry.connect, line);
  SpanField(R"(,"first_byte_ms":)", entry.first_byte, line);
  SpanField(R"(,"total_ms":)", entry.total, line);
  NumberField(R"(,"bytes_up":)", entry.bytes_up, line);
  NumberField(R"(,"bytes_down":)", entry.bytes_down, line);
  StringField(R"(,"reason":)", entry.reason, line);
  NumberField(R"(,"sessions":)", entry.sessions, line);
  NumberField(R"(,"retries":)", entry.retries, line);
  NumberField(R"(,"worker":)", entry.worker, line);
  line.Text("}\n");
}

}  // namespace

char* WriteAccessLine(AccessFormat format, const AccessEntry& entry, char* to) {
  LineWriter line(to);
  if (format == AccessFormat::kJson) {
    WriteJson(entry, line);
  } else {
    WriteText(entry, line);
  }
  return line.at();
}

AccessLog::AccessLog(Sink sink, AccessFormat format, int workers)
    : sink_(std::move(sink)), format_(format), batches_(static_cast<size_t>(workers)) {}

void AccessLog::Add(const AccessEntry& entry) {
  Batch& batch = batches_[static_cast<size_t>(sched::CurrentWorkerIndex())];
  {
    sched::MutexLock lock(batch.mu);
    if (batch.lines == nullptr) batch.lines.reset(new char[kBatchBytes]);
    char* const end = WriteAccessLine(format_, entry, batch.lines.get() + batch.size);
    batch.size = static_cast<size_t>(end - batch.lines.get());
    if (!MustFlush(batch)) return;
  }
  Flush(batch);
}

// Else somebody will, soon.
bool AccessLog::MustFlush(Batch& batch) {
  if (batch.size >= kFlushBytes) return true;
  if (batch.has_flusher) return false;
  batch.has_flusher = sched::Spawn([this, &batch] {
    sched::SleepFor(kFlushAfter);
    {
      sched::MutexLock lock(batch.mu);
      batch.has_flusher = false;
    }
    Flush(batch);
  });
  return !batch.has_flusher;
}

void AccessLog::Flush(Batch& batch) {
  std::unique_ptr<char[]> lines;
  size_t size = 0;
  {
    sched::MutexLock lock(batch.mu);
    lines = std::move(batch.lines);
    size = std::exchange(batch.size, 0);
  }
  if (size > 0) sink_({lines.get(), size});
}

}  // namespace parkway

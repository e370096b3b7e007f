// SPDX-License-Identifier: Apache-2.0
#include "server/access_log.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "netpoll/poller.h"
#include "sched/fibers.h"
#include "sched/mutex.h"
#include "sched/scheduler.h"

namespace parkway {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

AccessEntry Proxied() {
  AccessEntry entry;
  entry.event = AccessEvent::kEnd;
  entry.at_ns = 1'795'768'800'123'456'789;
  entry.id = 17;
  entry.client = netpoll::CompactEndpoint(*netpoll::Endpoint::Parse("192.0.2.7:33313"));
  entry.listener = "0.0.0.0:80";
  entry.route = "web";
  entry.backend = "10.0.0.1:8080";
  entry.queued = sched::Duration(0);
  entry.connect = microseconds(213);
  entry.first_byte = microseconds(1500);
  entry.total = milliseconds(5007);
  entry.bytes_up = 212;
  entry.bytes_down = 1432;
  entry.reason = "client_fin";
  entry.retries = 1;
  entry.sessions = 12;
  entry.worker = 3;
  return entry;
}

std::string Line(AccessFormat format, const AccessEntry& entry) {
  char line[kAccessLineMax];
  return {line, WriteAccessLine(format, entry, line)};
}

TEST(AccessLogTest, TextIsInTheOrderOfTcplog) {
  EXPECT_EQ(Line(AccessFormat::kText, Proxied()),
            "192.0.2.7:33313 [2026-11-27T08:40:00.123456Z] 0.0.0.0:80 web/10.0.0.1:8080 "
            "0.000/0.213/1.500/5007.000 212/1432 client_fin 12/1 17\n");
}

TEST(AccessLogTest, JsonIsAnObjectALine) {
  EXPECT_EQ(Line(AccessFormat::kJson, Proxied()),
            R"({"time":"2026-11-27T08:40:00.123456Z","event":"end","id":17,)"
            R"("client":"192.0.2.7:33313","listener":"0.0.0.0:80","route":"web",)"
            R"("backend":"10.0.0.1:8080","queue_ms":0.000,"connect_ms":0.213,)"
            R"("first_byte_ms":1.500,"total_ms":5007.000,"bytes_up":212,"bytes_down":1432,)"
            R"("reason":"client_fin","sessions":12,"retries":1,"worker":3})"
            "\n");
}

TEST(AccessLogTest, WhatThereIsNotIsADashOrAbsent) {
  AccessEntry entry;
  entry.event = AccessEvent::kStart;
  entry.client = netpoll::CompactEndpoint(*netpoll::Endpoint::Parse("[2001:db8::1]:1"));
  EXPECT_EQ(Line(AccessFormat::kText, entry),
            "[2001:db8::1]:1 [1970-01-01T00:00:00.000000Z] - -/- -1/-1/-1/0.000 0/0 start 0/0 0\n");
  const std::string json = Line(AccessFormat::kJson, entry);
  for (const char* const absent :
       {"listener", "route", "backend", "queue_ms", "connect_ms", "first_byte_ms", "reason"}) {
    EXPECT_EQ(json.find(absent), json.npos) << absent;
  }
}

// It began on one worker and ended on another, whose round is older.
TEST(AccessLogTest, ASpanBelowZeroIsZero) {
  AccessEntry entry = Proxied();
  entry.queued = entry.total = sched::Duration(-1);
  entry.connect = entry.first_byte = std::chrono::milliseconds(-5);
  const std::string text = Line(AccessFormat::kText, entry);
  EXPECT_NE(text.find(" 0.000/0.000/0.000/0.000 "), text.npos) << text;
  const std::string json = Line(AccessFormat::kJson, entry);
  EXPECT_NE(json.find(R"("connect_ms":0.000,"first_byte_ms":0.000,"total_ms":0.000,)"), json.npos)
      << json;
}

TEST(AccessLogTest, NobodyForgesALineOrAColumn) {
  AccessEntry entry = Proxied();
  entry.backend = "unix:/run/a b\n\"\\\xe9";
  const std::string text = Line(AccessFormat::kText, entry);
  EXPECT_NE(text.find(" web/unix:/run/a\\x20b\\x0a\\x22\\x5c\\xe9 "), text.npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  const std::string json = Line(AccessFormat::kJson, entry);
  EXPECT_NE(json.find(R"("unix:/run/a\u0020b\u000a\u0022\u005c\u00e9")"), json.npos) << json;
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 1);
}

// Wherever it stands, whatever surrounds it.
TEST(AccessLogTest, EachByteOfANameIsWrittenAsItIsOrEscaped) {
  AccessEntry entry = Proxied();
  for (int byte = 0; byte < 256; ++byte) {
    const auto c = static_cast<char>(byte);
    const bool is_plain = byte > ' ' && byte < 0x7f && byte != '"' && byte != '\\';
    char escaped[] = "\\x00";
    (void)std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
    const std::string shown = is_plain ? std::string(1, c) : escaped;
    for (size_t size = 1; size <= 18; ++size) {
      for (size_t at = 0; at < size; ++at) {
        std::string name(size, '~');
        name[at] = c;
        entry.route = name;
        const std::string wanted =
            " " + std::string(at, '~') + shown + std::string(size - at - 1, '~') + "/10.0.0.1";
        const std::string text = Line(AccessFormat::kText, entry);
        ASSERT_NE(text.find(wanted), text.npos) << text << byte << " at " << at << " of " << size;
      }
    }
  }
}

TEST(AccessLogTest, DatesAreThoseOfTheCalendar) {
  constexpr int64_t kSecond = 1'000'000'000;
  const std::pair<int64_t, const char*> kTimes[] = {
      {0, "1970-01-01T00:00:00.000000Z"},
      {951'782'399 * kSecond + 999'999'999, "2000-02-28T23:59:59.999999Z"},
      {951'782'400 * kSecond, "2000-02-29T00:00:00.000000Z"},
      {4'107'542'400 * kSecond + 10'203'000, "2100-03-01T00:00:00.010203Z"},
      {-kSecond, "1969-12-31T23:59:59.000000Z"},
  };
  AccessEntry entry = Proxied();
  for (const auto& [at_ns, wanted] : kTimes) {
    entry.at_ns = at_ns;
    const std::string text = Line(AccessFormat::kText, entry);
    EXPECT_EQ(text.substr(text.find('[') + 1, 27), wanted);
  }
}

TEST(AccessLogTest, TheLongestLineHasRoom) {
  AccessEntry entry = Proxied();
  const std::string longest(kAccessNameMax + 1, '\xff');
  entry.listener = entry.backend = entry.route = longest;
  entry.id = UINT64_MAX;
  entry.bytes_up = entry.bytes_down = entry.sessions = INT64_MIN;
  entry.queued = entry.connect = entry.first_byte = entry.total = sched::Duration::max();
  for (const AccessFormat format : {AccessFormat::kText, AccessFormat::kJson}) {
    char line[kAccessLineMax];
    EXPECT_LE(WriteAccessLine(format, entry, line) - line, ptrdiff_t{kAccessLineMax} - 300);
  }
}

// A client over a Unix socket has no address of its own.
TEST(AccessLogTest, AUnixClientIsNamedByItsKind) {
  AccessEntry entry = Proxied();
  entry.client = netpoll::CompactEndpoint(*netpoll::Endpoint::Parse("unix:@me"));
  EXPECT_EQ(Line(AccessFormat::kText, entry).substr(0, 7), "unix: [");
}

class Workers {
 public:
  explicit Workers(int count) : poller_(*netpoll::Poller::Create({.shards = count})) {
    sched::Scheduler::Options options;
    options.event_sources = poller_->event_sources();
    scheduler_ = std::make_unique<sched::Scheduler>(options);
  }
  sched::Scheduler& scheduler() { return *scheduler_; }

 private:
  const std::unique_ptr<netpoll::Poller> poller_;
  std::unique_ptr<sched::Scheduler> scheduler_;
};

// What the sink was given, in pieces.
class Gathered {
 public:
  AccessLog::Sink sink() {
    return [this](std::string_view lines) {
      sched::MutexLock lock(mu_);
      pieces_.emplace_back(lines);
    };
  }
  std::vector<std::string> pieces() {
    sched::MutexLock lock(mu_);
    return pieces_;
  }
  int64_t lines() {
    int64_t count = 0;
    for (const std::string& piece : pieces()) count += std::count(piece.begin(), piece.end(), '\n');
    return count;
  }

 private:
  sched::Mutex mu_;
  std::vector<std::string> pieces_ ABSL_GUARDED_BY(mu_);
};

TEST(AccessLogTest, FewLinesComeTogetherAfterAWhile) {
  Gathered gathered;
  AccessLog log(gathered.sink(), AccessFormat::kText, 1);
  Workers workers(1);
  sched::Scheduler& scheduler = workers.scheduler();
  ASSERT_TRUE(scheduler.SpawnOn(0, [&] {
    for (int i = 0; i < 3; ++i) log.Add(Proxied());
    EXPECT_EQ(gathered.lines(), 0);
  }));
  scheduler.DrainUntil(sched::kNever);
  EXPECT_EQ(gathered.lines(), 3);
  EXPECT_EQ(gathered.pieces().size(), 1U);
}

TEST(AccessLogTest, ManyLinesDoNotWaitAndNoneIsLost) {
  constexpr int kFibers = 8;
  constexpr int kLines = 1000;
  Gathered gathered;
  AccessLog log(gathered.sink(), AccessFormat::kText, 2);
  Workers workers(2);
  sched::Scheduler& scheduler = workers.scheduler();
  for (int i = 0; i < kFibers; ++i) {
    ASSERT_TRUE(scheduler.SpawnOn(i % 2, [&] {
      for (int k = 0; k < kLines; ++k) {
        log.Add(Proxied());
        sched::ChargeOperation();
      }
    }));
  }
  scheduler.DrainUntil(sched::kNever);
  EXPECT_EQ(gathered.lines(), kFibers * kLines);
  const std::string line = Line(AccessFormat::kText, Proxied());
  for (const std::string& piece : gathered.pieces()) {
    EXPECT_LE(piece.size(), AccessLog::kFlushBytes + line.size());
    EXPECT_EQ(piece.size() % line.size(), 0U);
  }
}

}  // namespace
}  // namespace parkway

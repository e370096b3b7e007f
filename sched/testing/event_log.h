// SPDX-License-Identifier: Apache-2.0
//
// What happened in a simulation, in order, as text; nothing is kept unless asked for. Lines carry
// no address and no real time, so that equal seeds give equal logs.
#ifndef PARKWAY_SCHED_TESTING_EVENT_LOG_H_
#define PARKWAY_SCHED_TESTING_EVENT_LOG_H_

#include <cstdint>
#include <string>

namespace sched::testing {

class EventLog {
 public:
  // Keeps the text of what is noted from here on.
  void KeepText() { keep_text_ = true; }

  // `what` is a literal; the numbers tell which and how much.
  void Note(int64_t now_ns, const char* what, int64_t a = 0, int64_t b = 0, int64_t c = 0) {
    if (keep_text_) AddText(now_ns, what, a, b, c);
  }

  const std::string& text() const { return text_; }

 private:
  void AddText(int64_t now_ns, const char* what, int64_t a, int64_t b, int64_t c) {
    text_ += std::to_string(now_ns / 1000) + " us  " + what;
    for (const int64_t number : {a, b, c}) text_ += " " + std::to_string(number);
    text_ += "\n";
  }

  bool keep_text_ = false;
  std::string text_;
};

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_EVENT_LOG_H_

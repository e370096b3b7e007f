// SPDX-License-Identifier: Apache-2.0
#include "server/flag_scanner.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text_file.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<KnownFlag> kKnown = {
    {"listen"},
    {"idle_timeout"},
    {"workers"},
    {"pin_cpus", KnownFlag::Kind::kBool},
    {"help", KnownFlag::Kind::kCommandLine},
};

class FlagScannerTest : public testing::Test {
 protected:
  FlagScannerTest() {
    std::string name = testing::TempDir() + "/flag_scanner_XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~FlagScannerTest() override { std::filesystem::remove_all(folder_); }

  // The file's whole path.
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
    return folder_ + "/" + name;
  }

  std::string folder_;
};

// "name=value" of each setting; the error alone if there is one.
std::vector<std::string> Scan(const std::vector<std::string>& arguments) {
  const absl::StatusOr<std::vector<FlagSetting>> settings = ScanFlags(arguments, kKnown);
  if (!settings.ok()) return {std::string(settings.status().message())};
  std::vector<std::string> texts;
  for (const FlagSetting& setting : *settings) {
    EXPECT_EQ(setting.name, kKnown[setting.flag].name);
    texts.push_back(setting.name + "=" + setting.value);
  }
  return texts;
}

TEST_F(FlagScannerTest, KeepsEverySettingInOrder) {
  EXPECT_THAT(Scan({"--listen=:1", "--workers=2", "--listen=:3"}),
              ElementsAre("listen=:1", "workers=2", "listen=:3"));
  EXPECT_THAT(Scan({}), IsEmpty());
}

TEST_F(FlagScannerTest, TakesTheValueFromTheNextArgument) {
  EXPECT_THAT(Scan({"--listen", ":1", "-workers", "-2"}), ElementsAre("listen=:1", "workers=-2"));
}

TEST_F(FlagScannerTest, DashesAreAlike) {
  EXPECT_THAT(Scan({"-idle-timeout=5s", "--idle_timeout=6s", "--pin-cpus"}),
              ElementsAre("idle_timeout=5s", "idle_timeout=6s", "pin_cpus=true"));
  EXPECT_THAT(Scan({"---workers=1"}),
              ElementsAre("--_workers: unknown flag; did you mean --workers?"));
}

TEST_F(FlagScannerTest, ValuesKeepEverythingBehindTheFirstEqual) {
  EXPECT_THAT(Scan({"--listen=a=b=", "--listen="}), ElementsAre("listen=a=b=", "listen="));
}

TEST_F(FlagScannerTest, Bools) {
  for (const std::string text :
       {"--pin_cpus", "--pin_cpus=true", "--pin_cpus=1", "--pin_cpus=yes"}) {
    EXPECT_THAT(Scan({text}), ElementsAre("pin_cpus=true"));
  }
  for (const std::string text :
       {"--nopin_cpus", "--no-pin-cpus", "-nopin_cpus", "--pin_cpus=false", "--pin_cpus=0"}) {
    EXPECT_THAT(Scan({text}), ElementsAre("pin_cpus=false"));
  }
  EXPECT_THAT(Scan({"--pin_cpus=maybe"}), ElementsAre("--pin_cpus=maybe: must be true or false"));
  EXPECT_THAT(Scan({"--nopin_cpus=true"}), ElementsAre("--nopin_cpus: takes no value"));
  EXPECT_THAT(Scan({"--noworkers"}),
              ElementsAre("--noworkers: unknown flag; did you mean --workers?"));
  EXPECT_THAT(Scan({"--pin_cpus", "true"}),
              ElementsAre("true: not a flag; every argument is one, such as --listen=:8080"));
}

TEST_F(FlagScannerTest, UnknownFlagsAreErrors) {
  EXPECT_THAT(Scan({"--frobnicate"}),
              ElementsAre("--frobnicate: unknown flag; --help lists all flags"));
  EXPECT_THAT(Scan({"--idle_timout=5s"}),
              ElementsAre("--idle_timout: unknown flag; did you mean --idle_timeout?"));
  EXPECT_THAT(Scan({"--flagfiles=x"}),
              ElementsAre("--flagfiles: unknown flag; did you mean --flagfile?"));
  for (const std::string name : {"--fromenv", "--tryfromenv", "--undefok", "--helpfull"}) {
    EXPECT_THAT(Scan({name + "=listen"})[0], HasSubstr(name + ": unknown flag")) << name;
  }
  EXPECT_THAT(Scan({"--=5"}), ElementsAre("--: unknown flag; --help lists all flags"));
}

TEST_F(FlagScannerTest, MissingValuesAreErrors) {
  EXPECT_THAT(Scan({"--workers"}), ElementsAre("--workers: needs a value: --workers=..."));
  EXPECT_THAT(Scan({"--workers", "--pin_cpus"}),
              ElementsAre("--workers: needs a value: --workers=..."));
  EXPECT_THAT(Scan({"--flagfile"}),
              ElementsAre("--flagfile: needs a value, for example --flagfile=parkway.flags"));
  EXPECT_THAT(Scan({"--help=no"}), ElementsAre("--help: takes no such value"));
}

TEST_F(FlagScannerTest, PositionalArgumentsAreErrors) {
  const std::string problem = ": not a flag; every argument is one, such as --listen=:8080";
  EXPECT_THAT(Scan({"serve"}), ElementsAre("serve" + problem));
  EXPECT_THAT(Scan({"-"}), ElementsAre("-" + problem));
  EXPECT_THAT(Scan({""}), ElementsAre("\"\"" + problem));
  EXPECT_THAT(Scan({"--workers=1", "--"}), ElementsAre("workers=1"));
  EXPECT_THAT(Scan({"--", "--workers=1"}), ElementsAre("--workers=1" + problem));
}

TEST_F(FlagScannerTest, FlagfileStandsWhereItIsNamed) {
  const std::string file = Write("flags",
                                 "# a comment\n\n  --listen=:2  \r\n\t# another\n"
                                 "--pin_cpus\n--nopin-cpus\n-idle-timeout=1 s\n--listen=:3");
  EXPECT_THAT(Scan({"--listen=:1", "--flagfile=" + file, "--listen=:4"}),
              ElementsAre("listen=:1", "listen=:2", "pin_cpus=true", "pin_cpus=false",
                          "idle_timeout=1 s", "listen=:3", "listen=:4"));
  EXPECT_THAT(Scan({"--flagfile", Write("empty", "")}), IsEmpty());
}

TEST_F(FlagScannerTest, FlagfileErrorsNameTheLine) {
  const std::pair<std::string, std::string> table[] = {
      {"--frobnicate=1", "--frobnicate: unknown flag; --help lists all flags"},
      {"--worker=1", "--worker: unknown flag; did you mean --workers?"},
      {"--workers", "--workers: needs a value: --workers=..."},
      {"--workers 4", "--workers 4: in a file the value follows a '=': --workers=value"},
      {"--worker 4", "--worker: unknown flag; did you mean --workers?"},
      {"--flagfile x", "--flagfile x: in a file the value follows a '=': --flagfile=value"},
      {"--flagfile", "--flagfile: needs a value, for example --flagfile=parkway.flags"},
      {"workers=4", "workers=4: not a flag; write --name=value, or # before a comment"},
      {"--help", "--help: belongs on the command line"},
      {"--pin_cpus=5", "--pin_cpus=5: must be true or false"},
      {"--", "--: unknown flag; --help lists all flags"},
      {std::string("--workers=1\0", 12), "line: holds a NUL byte"},
      {"--bell\a=1", "--bell?: unknown flag; --help lists all flags"},
  };
  for (const auto& [line, problem] : table) {
    const std::string file = Write("flags", absl::StrCat("# first\n", line, "\n--workers=1\n"));
    EXPECT_THAT(Scan({"--flagfile=" + file}), ElementsAre(absl::StrCat(file, ":2: ", problem)));
  }
}

TEST_F(FlagScannerTest, FlagfilesNestRelativeToTheirFolder) {
  Write("inner", "--workers=1\n");
  const std::string outer = Write("outer", "--flagfile=inner\n--workers=2\n");
  EXPECT_THAT(Scan({"--flagfile=" + outer}), ElementsAre("workers=1", "workers=2"));
  const std::string absolute = Write("absolute", "--flagfile=" + outer + "\n");
  EXPECT_THAT(Scan({"--flagfile=" + absolute}), ElementsAre("workers=1", "workers=2"));
}

TEST_F(FlagScannerTest, AFileThatIncludesItselfIsNoticed) {
  const std::string file = Write("circle", "--workers=1\n--flagfile=circle\n");
  EXPECT_THAT(Scan({"--flagfile=" + file}),
              ElementsAre(file + ":2: --flagfile=" + file +
                          ": nested more than 8 deep; does a file include itself?"));
}

TEST_F(FlagScannerTest, BoundsHold) {
  Write("leaf", "");
  std::string includes, flags;
  for (int i = 0; i < kFlagfileCountMax; ++i) includes += "--flagfile=leaf\n";
  for (size_t i = 0; i <= kFlagCountMax; ++i) flags += "--workers=1\n";
  EXPECT_THAT(Scan({"--flagfile=" + Write("includes", includes)})[0],
              HasSubstr("more than 100 flagfiles"));
  EXPECT_THAT(Scan({"--flagfile=" + Write("flags", flags)})[0], HasSubstr("more than 10000 flags"));
  const std::string large = Write("large", std::string(kTextFileBytesMax + 1, '#'));
  EXPECT_THAT(Scan({"--flagfile=" + large}),
              ElementsAre("--flagfile=" + large + ": larger than 1 MiB"));
}

TEST_F(FlagScannerTest, UnreadableFilesAreNamed) {
  EXPECT_THAT(Scan({"--flagfile=/nosuch"}),
              ElementsAre("--flagfile=/nosuch: No such file or directory"));
  EXPECT_THAT(Scan({"--flagfile="}), ElementsAre("--flagfile=: No such file or directory"));
  EXPECT_THAT(Scan({"--flagfile=" + folder_}),
              ElementsAre("--flagfile=" + folder_ + ": Is a directory"));
  const std::string file = Write("outer", "\n--flagfile=nosuch\n");
  EXPECT_THAT(Scan({"--flagfile=" + file}), ElementsAre(file + ":2: --flagfile=" + folder_ +
                                                        "/nosuch: No such file or directory"));
}

TEST_F(FlagScannerTest, ACommentBehindAValueIsExplained) {
  const FlagSetting in_file{.name = "spin", .value = "5us # fast", .place = "f:1"};
  EXPECT_EQ(in_file.Error("bad").message(),
            "f:1: --spin=5us # fast: bad (a comment needs a line of its own)");
  const FlagSetting in_argv{.name = "spin", .value = "#"};
  EXPECT_EQ(in_argv.Error("bad").message(), "--spin=#: bad");
}

}  // namespace
}  // namespace parkway

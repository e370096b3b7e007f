-- SPDX-License-Identifier: Apache-2.0
--
-- Loads a raw TCP echo server, directly or through a proxy.
--
-- wrk wants HTTP, but it checks only the first request it makes. Every later one is the bytes of a
-- small valid HTTP *response*: the server echoes them, and wrk parses them as its answer.
--
--   wrk -t1 -c64 -d3s -s bench/wrk/echo.lua http://127.0.0.1:PORT -- [BYTES [PIPELINE [close]]]
--
-- BYTES is the size of one request on the wire (default 64, at least 38, 57 with `close`), PIPELINE
-- how many are sent at once (default 1); `close` makes wrk open a new connection for every request.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

local threads = 0

-- wrk checks the first request of its first thread alone: the others start with the payload.
function setup(thread)
  thread:set("unchecked", threads == 0)
  threads = threads + 1
end

-- A response of exactly `size` bytes, headers included.
local function response(size, close)
  local connection = close and "Connection: close\r\n" or ""
  local head = "HTTP/1.1 200 OK\r\n" .. connection .. "Content-Length: "
  local blank = "\r\n\r\n"
  for digits = 1, 9 do
    local body = size - #head - digits - #blank
    if body >= 0 and #tostring(body) == digits then
      return head .. body .. blank .. string.rep("x", body)
    end
  end
  error("a request cannot have " .. size .. " bytes: too small, or just between two header sizes")
end

local first, payload

function init(args)
  local size = tonumber(args[1] or 64)
  local pipeline = tonumber(args[2] or 1)
  first = string.rep("GET / HTTP/1.1\r\nHost: echo\r\n\r\n", pipeline)
  payload = string.rep(response(size, args[3] == "close"), pipeline)
end

function request()
  if unchecked then
    unchecked = false
    return first
  end
  return payload
end

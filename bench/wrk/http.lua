-- SPDX-License-Identifier: Apache-2.0
--
-- GET of the URL's path, through a proxy or directly.
--
--   wrk -t1 -c64 -d3s -s bench/wrk/http.lua http://127.0.0.1:PORT/payload

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

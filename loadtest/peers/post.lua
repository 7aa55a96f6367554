-- A wrk script: posts the bodies of a file in turn, and writes what it measured as one line of JSON.
-- wrk -s post.lua URL -- FOLDER FIRST; FOLDER holds `bodies`, one a line, and `headers`, "name: value" a line.

local requests = {}
local at = 0

function init(args)
  local folder = args[1]
  at = tonumber(args[2])
  local headers = {}
  for line in io.lines(folder .. "/headers") do
    local name, value = line:match("^(.-): (.*)$")
    headers[name] = value
  end
  for body in io.lines(folder .. "/bodies") do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"seconds": %.6f, "requests": %d, "bytes": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
    summary.duration / 1e6, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end

-- For wrk: sends the request in the file arguments[1], each time with a number of its own, counted
-- up from arguments[2], in place of the mark; prints what came of it as one line of JSON. With an
-- arguments[3], `whole` counts the answers that end in it.
local MARK = "############"
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  local text = file:read("*a")
  file:close()
  local from, to = text:find(MARK, 1, true)
  head, tail = text:sub(1, from - 1), text:sub(to + 1)
  number, whole = tonumber(arguments[2]), 0
  local ending = arguments[3]
  if ending then
    response = function(status, headers, body)
      if body:sub(-#ending) == ending then
        whole = whole + 1
      end
    end
  end
end

function request()
  number = number + 1
  return head .. string.format("%012d", number) .. tail
end

function done(summary, latency, requests)
  local ended = 0
  for _, thread in ipairs(threads) do
    ended = ended + thread:get("whole")
  end
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '{"answered":%d,"refused":%d,"broken":%d,"whole":%d,"seconds":%.6f,"median_seconds":%.6f}\n',
    summary.requests - errors.status, errors.status, broken, ended, summary.duration / 1e6,
    latency:percentile(50) / 1e6
  ))
end

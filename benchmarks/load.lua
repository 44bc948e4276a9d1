-- What wrk sends. Arguments: number of users, tag of this run, first and last page of the cycle,
-- then for each kind of request its weight, method, path and body. In path and body {id} is a user
-- at random, {page} the next page of the cycle, {unique} a name that nobody has had before.
-- Afterwards prints one line of JSON.

local requests, weights = {}, 0
local users, tag, first, last
local count = 0

function init(args)
  users, tag, first, last = tonumber(args[1]), args[2], tonumber(args[3]), tonumber(args[4])
  math.randomseed(tonumber(args[5]))
  for i = 6, #args, 4 do
    weights = weights + tonumber(args[i])
    local body = args[i + 3]
    table.insert(requests, {up_to = weights, method = args[i + 1], path = args[i + 2],
                            body = body ~= "" and body or nil})
  end
end

local headers = {["Content-Type"] = "application/json"}

function request()
  local chosen = requests[1]
  if #requests > 1 then
    local at = math.random() * weights
    for _, each in ipairs(requests) do
      chosen = each
      if at < each.up_to then break end
    end
  end
  local values = {
    id = math.random(users),
    page = first + count % (last - first + 1),
    unique = tag .. "x" .. count,
  }
  count = count + 1
  local path = chosen.path:gsub("{(%w+)}", values)
  if not chosen.body then return wrk.format(chosen.method, path) end
  return wrk.format(chosen.method, path, headers, (chosen.body:gsub("{(%w+)}", values)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "connect": %d, "read": %d, '
    .. '"write": %d, "status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end

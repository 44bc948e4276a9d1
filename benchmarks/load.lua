-- The requests of one wrk run. Arguments: number of users, tag of the run, number of pages, smallest
-- page size, number of page sizes, seed; then weight, method, path and body of each request.
-- In path and body, {id} becomes a random user, {unique} a name that is new in every request,
-- {page} and {size} the next pair in the cycle of all pages in all sizes.
-- The last line of the output is JSON.

local requests, weights = {}, 0
local users, tag, pages, smallest, sizes
local count = 0
local headers = {["Content-Type"] = "application/json"}

function init(args)
  users, tag, pages = tonumber(args[1]), args[2], tonumber(args[3])
  smallest, sizes = tonumber(args[4]), tonumber(args[5])
  math.randomseed(tonumber(args[6]))
  for name, value in pairs(wrk.headers) do headers[name] = value end
  for i = 7, #args, 4 do
    weights = weights + tonumber(args[i])
    table.insert(requests, {
      up_to = weights, method = args[i + 1], path = args[i + 2], body = args[i + 3],
    })
  end
end

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
    unique = tag .. "x" .. count,
    size = smallest + count % sizes,
    page = 1 + math.floor(count / sizes) % pages,
  }
  count = count + 1
  local path = chosen.path:gsub("{(%w+)}", values)
  if chosen.body == "" then return wrk.format(chosen.method, path) end
  return wrk.format(chosen.method, path, headers, (chosen.body:gsub("{(%w+)}", values)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p99": %d, "connect": %d, "read": %d, "write": %d, '
    .. '"status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(99), errors.connect, errors.read,
    errors.write, errors.status, errors.timeout))
end

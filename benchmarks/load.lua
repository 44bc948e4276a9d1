-- What wrk sends. Arguments: number of users, tag of this run, number of pages, smallest and largest
-- size of a page, seed, then for each kind of request its weight, method, path and body. In path and
-- body {id} is a user at random, {unique} a name that nobody has had before, {page} and {size} the
-- next of the cycle of all pages in all sizes, {page_from_end} the page as far from the end.
-- Afterwards prints one line of JSON.

local requests, weights = {}, 0
local users, tag, pages, smallest, sizes
local count = 0

function init(args)
  users, tag, pages = tonumber(args[1]), args[2], tonumber(args[3])
  smallest, sizes = tonumber(args[4]), tonumber(args[5]) - tonumber(args[4]) + 1
  math.randomseed(tonumber(args[6]))
  for i = 7, #args, 4 do
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
  -- The size changes with every request, so that any number of them has the same mean.
  local size, page = smallest + count % sizes, 1 + math.floor(count / sizes) % pages
  local values = {
    id = math.random(users),
    size = size,
    page = page,
    page_from_end = math.floor(users / size) + 1 - page,
    unique = tag .. "x" .. count,
  }
  count = count + 1
  local path = chosen.path:gsub("{([%w_]+)}", values)
  if not chosen.body then return wrk.format(chosen.method, path) end
  return wrk.format(chosen.method, path, headers, (chosen.body:gsub("{([%w_]+)}", values)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "connect": %d, "read": %d, '
    .. '"write": %d, "status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end

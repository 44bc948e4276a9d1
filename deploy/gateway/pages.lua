-- Answers requests for pages of users from Redis, and leaves all others to the service.
--
-- A page is answered if the service would answer it from Redis too: it is of the current generation,
-- within its time to live, and on a master with the replication history that the service has stored
-- beside them (user_service/cache/page_store.py). The service tells in `X-Page-Place` where its pages
-- are. It does not while authentication, rate limits, CORS or traces need to see every request.
local Redis = require "nginx.redis"

local HOST, PORT = os.getenv "PAGES_REDIS_HOST", tonumber(os.getenv "PAGES_REDIS_PORT")
local PASSWORD = assert(io.open(os.getenv "PAGES_REDIS_PASSWORD_FILE")):read "*l"
local TIMEOUT = 50 -- milliseconds for connecting and for each answer
local PAUSE = 1 -- seconds without Redis after a failure; then a single request tries it
local TOLD_EVERY = 1 -- seconds between requests that the service answers so that it tells the place
local FIRST_PAGE = "page=1&per_page=50" -- of a request without a query string
-- A page is its generation, the time at which it was stored, ETag, Link header and body.
local ENTRY = "^(" .. ("%x"):rep(32) .. ")(" .. ("%d"):rep(10) .. ")(%x+)\n([^\n]*)\n(.*)$"
-- As the service sends them; security_headers.py has the last four.
local HEADERS = {
  ["X-Cache"] = "HIT", ["Cache-Control"] = "private, no-cache",
  ["X-Content-Type-Options"] = "nosniff", ["Referrer-Policy"] = "no-referrer",
  ["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'",
  ["Cross-Origin-Resource-Policy"] = "same-origin",
}

local shared = ngx.shared.pages
-- The connections of this process, and the replication id of the master that they lead to.
local pool, master = 0, nil

-- Returns a connection and the replication id of its master; a new connection asks for it.
local function connect()
  local redis = Redis:new()
  redis:set_timeout(TIMEOUT)
  assert(redis:connect(HOST, PORT, { pool = "pages" .. pool }))
  if redis:get_reused_times() == 0 then
    assert(redis:auth("gateway", PASSWORD))
    local id = assert(redis:info("replication")):match("role:master.*master_replid:(%x+)")
    master = assert(id == (master or id) and id, "no master, or another one")
  end
  return redis, master
end

-- Returns ETag, Link header and body of a page; nothing if it is not current.
local function read_page(ttl, base, key)
  local redis, server = connect()
  local found = assert(redis:mget(base .. "history", base .. "generation", key))
  local history, generation, page = unpack(found)
  assert(history == ngx.null or history:match("^%x+") == server, "another history")
  redis:set_keepalive(10000, 100)
  local stored_in, stored_at, etag, links, body = tostring(page):match(ENTRY)
  local is_current = history ~= ngx.null and stored_in == generation
    and math.abs(ngx.time() - stored_at) < tonumber(ttl)
  return is_current and '"' .. etag .. '"', links, body
end

local function page_of_redis(name)
  local ttl, base, prefix = (shared:get("place") or ""):match("^(%d+) (%S+) (%S+)$")
  local has_failed = shared:get("failed")
  if not ttl or has_failed and not shared:add("pause", true, PAUSE) then return end
  local answered, etag, links, body = pcall(read_page, ttl, base, prefix .. name)
  if answered then
    if has_failed then shared:delete("failed") end
    return etag, links, body
  end
  pool, master = pool + 1, nil
  shared:set("pause", true, PAUSE)
  if shared:add("failed", true) then ngx.log(ngx.WARN, "pages not read from Redis: ", etag) end
end

local function answer()
  local uri, method = ngx.var.request_uri, ngx.req.get_method()
  if method ~= "GET" and method ~= "HEAD" or ngx.var.needs_service == "1" then return end
  -- The names of pages begin with `page=` or `per_page=`.
  local name = uri == "/api/v1/users" and FIRST_PAGE or uri:match("^/api/v1/users%?(p[a-z_]*=.*)$")
  if not name then return end
  if method == "GET" and shared:add("told", true, TOLD_EVERY) then
    return ngx.req.clear_header("If-None-Match") -- a 304 would not tell the place
  end
  local etag, links, body = page_of_redis(name)
  local known = ngx.var.http_if_none_match
  if not etag or known and known ~= etag and known ~= "W/" .. etag then return end
  for header, value in pairs(HEADERS) do ngx.header[header] = value end
  ngx.header["X-Request-ID"] = ngx.var.the_request_id
  ngx.header["Link"] = links ~= "" and links or nil
  ngx.header["ETag"] = known or etag
  if known then
    ngx.status = ngx.HTTP_NOT_MODIFIED
  else
    ngx.header["Content-Type"], ngx.header["Content-Length"] = "application/json", #body
  end
  shared:incr("hits", 1, 0)
  ngx.send_headers() -- for HEAD and 304, nginx ends the response here
  if not known then ngx.print(body) end
  ngx.exit(ngx.status)
end

return { answer = answer }

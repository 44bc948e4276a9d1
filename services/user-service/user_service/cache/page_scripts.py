"""The scripts that Redis runs for the page cache, each as one step that no command interrupts.

The first three keys of each script hold the history, the generation and the log position (LSN).
A script that replaces one of them reads it by MGET, which finds nothing under a key of another
type. GET would fail there, and such a key would never be replaced.
"""

# A stored page begins with its generation and the time at which it was stored, for pages.lua of the
# gateway, too.
GENERATION_LENGTH = 32
TIME_LENGTH = 10
BODY_AT = GENERATION_LENGTH + TIME_LENGTH

# A claim is the generation and the process that refills the page. Without room for claims (OOM)
# every process reads the page itself.
LOOK_UP_OR_CLAIM = f"""
local now, ttl, claim_ms, process = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local answer = redis.call('MGET', unpack(KEYS))
local generation = answer[2]
if not generation then return answer end
local mine = generation .. process
for i = 4, #KEYS, 2 do
  local page, claim = answer[i], answer[i + 1]
  local is_current = page
    and string.sub(page, 1, {GENERATION_LENGTH}) == generation
    and math.abs(now - string.sub(page, {GENERATION_LENGTH + 1}, {BODY_AT})) < ttl
  local is_anothers = claim and claim ~= mine
    and string.sub(claim, 1, {GENERATION_LENGTH}) == generation
  local is_ours = not is_current and not is_anothers
  if is_ours then
    local result = redis.pcall('SET', KEYS[i + 1], mine, 'PX', claim_ms)
    if result.err and not string.find(result.err, 'OOM') then return result end
  end
  answer[i] = is_current and page
  answer[i + 1] = is_ours and 1 or 0
end
return answer
"""

STORE_IF_CURRENT = """
local ttl, generation, process, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('GET', KEYS[5]) == generation .. process then redis.call('DEL', KEYS[5]) end
if redis.call('GET', KEYS[2]) ~= generation then return 0 end
redis.call('SET', KEYS[4], entry, 'EX', ttl)
return 1
"""

# Hexadecimal numbers of one length compare as strings. An LSN only grows. An unknown one stays
# unknown: the LSN of a later write may not cover the write whose LSN is unknown.
REPLACE_GENERATION = """
local lsn, new_lsn = redis.call('MGET', KEYS[3])[1], ARGV[2]
if not lsn or lsn == '' or new_lsn == '' then new_lsn = ''
elseif lsn > new_lsn then new_lsn = lsn end
redis.call('MSET', KEYS[2], ARGV[1], KEYS[3], new_lsn)
"""

SETTLE_IF_CURRENT = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[2])
return 1
"""

# Where INFO is not permitted, a random name that comes with a new connection stands for the server.
CONFIRM_HISTORY = """
local database, connection, generation = ARGV[1], ARGV[2], ARGV[3]
local stored = redis.call('MGET', KEYS[1])[1] or ''
local info = redis.pcall('INFO', 'replication')
if type(info) == 'string' and string.find(info, 'role:slave') then
  return redis.error_reply('READONLY a replica may lack the last generation')
end
local server = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
if not server then server = connection ~= '' and connection or string.match(stored, '^%x*') end
local history = server .. '/' .. database
if stored ~= history then
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('SET', KEYS[1], history)
end
if not redis.call('MGET', KEYS[2])[1] then redis.call('SET', KEYS[2], generation) end
return history
"""

# Every command of the scripts above and of the store, but for INFO.
CHECK = """
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('MSET', KEYS[1], redis.call('GET', KEYS[1]))
redis.call('MGET', KEYS[1])
redis.call('DEL', KEYS[1])
"""

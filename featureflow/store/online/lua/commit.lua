-- Move state and offsets of one partition, in one atom: (1) check everything, (2) mark dirty, (3) write state,
-- (4) move offsets and clear the mark. Lua is atomic but does not roll back: whatever can be refused is refused in (1),
-- and an error in (3) or (4) leaves the mark, so that no claim succeeds until the view is rebuilt.
--
-- KEYS: A offset records, A visibility streams, W state keys.
-- ARGV: token (32 hex) | to | max_time_us | complete_ms | A | W | entries a visibility stream keeps | from, A times | heads |
-- headers | places | data. The last four are the columns of the writes (see writes.py), little-endian: a head is expected bytes
-- u32, header bytes u16, n u16, ttl ms u64, renew ms u64; a place is position u32, bytes u32, n of them for each head. n = 65535:
-- one place, which is the whole value, and 0 bytes delete the key. expected = 4294967295: a whole value in place of whatever is there.
-- A patch gives its key a new ttl from the time "renew ms" on, a whole value always. complete_ms is kept where it is newer than the record's.
-- Four arguments, since the server spends more on taking an argument than on writing a row.
-- Offsets and times are sign and 19 digits (see record.py), compared as strings.
-- Returns {'ok', ms} or {reason, text, 0-based places...}; reasons: dropped fenced offset dirty mismatch expired; {'kind', text, key} of
-- a key that holds what FeatureFlow does not write.
local CLEAN, DROPPED = '-0000000000000000001', '-0000000000000000002'
local call, attempt = redis.call, redis.pcall
local sub = string.sub
local unpack = struct.unpack
local WHOLE = 65535
local ANY = 4294967295
local AT_ONCE = 4000                       -- numbers that one unpack puts on Lua's stack
local token, to, max_time, complete = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local A, W, kept = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]

-- (1) check everything
if not (A and W) or A < 1 or #KEYS ~= 2 * A + W or #ARGV ~= 11 + A or #token ~= 32 or #to ~= 20 or #max_time ~= 20 or #complete ~= 20 then
  return redis.error_reply('ERR commit: wrong arguments')
end
local known = {}                           -- of each record: the complete_ms that it has
for i = 1, A do
  local key, from = KEYS[i], ARGV[7 + i]
  local record = attempt('GET', key)
  if not record then
    return {'offset', key .. ' is absent'}
  end
  if type(record) == 'table' or #record < 136 or sub(record, 1, 4) ~= 'FFo2' then
    return {'kind', 'is not an offset record', key}
  end
  if sub(record, 57, 76) == DROPPED then
    return {'dropped', key .. ' is being rebuilt'}
  end
  if sub(record, 5, 36) ~= token then
    return {'fenced', key .. ' was claimed by ' .. sub(record, 5, 36)}
  end
  if sub(record, 57, 76) ~= CLEAN then
    return {'dirty', key .. ' broke on the way to ' .. sub(record, 57, 76)}
  end
  if sub(record, 37, 56) ~= from then
    return {'offset', key .. ' is at ' .. sub(record, 37, 56) .. ', not ' .. from}
  end
  known[i] = sub(record, 117, 136)
  local kind = call('TYPE', KEYS[A + i]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return {'kind', 'is not a stream', KEYS[A + i]}
  end
end

local heads, headers, places, data = ARGV[8 + A], ARGV[9 + A], ARGV[10 + A], ARGV[11 + A]

-- All numbers of a column, in one table: a call of unpack for each of them costs more than what is done with it.
local function numbers(format, fields, count, text)
  local most = math.floor(AT_ONCE / fields)
  if count <= most then
    return {unpack('<' .. string.rep(format, count), text)}
  end
  local all, at = {}, 1
  while count > 0 do
    local n = math.min(count, most)
    local some = {unpack('<' .. string.rep(format, n), text, at)}
    for i = 1, n * fields do
      all[#all + 1] = some[i]
    end
    at, count = some[n * fields + 1], count - n
  end
  return all
end

local P = #places / 8
if #heads ~= 24 * W or P ~= math.floor(P) then
  return redis.error_reply('ERR commit: ' .. #heads .. ' bytes of heads for ' .. W .. ' keys, ' .. #places .. ' bytes of places')
end
local head = numbers('I4I2I2I8I8', 5, W, heads)  -- of key w from 5 w - 4 on: expected, header bytes, patches, ttl, renew
local place = numbers('I4I4', 2, P, places)      -- of patch p from 2 p - 1 on: position, bytes
local expired = {'expired', 'rows were expected, their TTL has passed'}
local header, at, p = 1, 1, 1
for w = 1, W do
  local key, h = KEYS[2 * A + w], 5 * w - 4
  local expected, header_bytes, n = head[h], head[h + 1], head[h + 2]
  local length = expected == ANY and 0 or attempt('STRLEN', key)
  if expected == ANY then
    if n ~= WHOLE or header_bytes > 0 then
      return redis.error_reply('ERR commit: not a whole value, whatever is there: ' .. key)
    end
  elseif length ~= expected then
    if type(length) == 'table' then        -- of another type
      return {'kind', 'is not a state', key}
    end
    if length > 0 then
      return {'mismatch', key .. ' has ' .. length .. ' bytes, not ' .. expected, w - 1}
    end
    expired[#expired + 1] = w - 1
  elseif length > 0 and call('GETRANGE', key, 0, header_bytes - 1) ~= sub(headers, header, header + header_bytes - 1) then
    return {'mismatch', key .. ' has another header', w - 1}
  end
  header = header + header_bytes
  if n == WHOLE then
    at, p = at + (place[p + 1] or 0), p + 2
  else
    local grown = expected
    for _ = 1, n do
      local position, bytes = place[p], place[p + 1]
      if p > 2 * P or position > grown or bytes == 0 then
        return redis.error_reply('ERR commit: a patch leaves a hole in ' .. key)
      end
      if position + bytes > grown then
        grown = position + bytes
      end
      at, p = at + bytes, p + 2
    end
  end
end
if header ~= #headers + 1 or p ~= 2 * P + 1 or at ~= #data + 1 then
  return redis.error_reply('ERR commit: ' .. #headers .. ', ' .. #places .. ', ' .. #data .. ' bytes of writes, '
    .. (header - 1) .. ', ' .. (4 * p - 4) .. ', ' .. (at - 1) .. ' understood')
end
if #expired > 2 then
  return expired
end

-- (2) mark dirty
for i = 1, A do
  call('SETRANGE', KEYS[i], 56, to)
end

-- (3) write state
local now = call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
at, p = 1, 1
for w = 1, W do
  local key, h = KEYS[2 * A + w], 5 * w - 4
  local n, ttl = head[h + 2], head[h + 3]
  if n == WHOLE then
    local bytes = place[p + 1]
    p = p + 2
    local value = sub(data, at, at + bytes - 1)
    at = at + bytes
    if bytes == 0 then
      call('UNLINK', key)
    elseif ttl > 0 then
      call('SET', key, value, 'PX', ttl)
    else
      call('SET', key, value)
    end
  else
    for _ = 1, n do
      local bytes = place[p + 1]
      call('SETRANGE', key, place[p], sub(data, at, at + bytes - 1))
      at, p = at + bytes, p + 2
    end
    if ttl > 0 and ms >= head[h + 4] then
      call('PEXPIRE', key, ttl)
    end
  end
end

-- (4) move offsets, say when, and clear the mark
local now_ms = string.format('+%019d', ms)
local moved = to .. CLEAN .. max_time .. now_ms
if complete > now_ms then                  -- the server's clock was put back
  complete = now_ms
end
for i = 1, A do
  if ARGV[7 + i] ~= to then
    call('XADD', KEYS[A + i], 'MAXLEN', '~', kept, '*', 'to', to)
  end
  call('SETRANGE', KEYS[i], 36, moved .. (complete > known[i] and complete or known[i]))
end
return {'ok', ms}

-- Move state and offsets of one partition, in one atom: (1) check everything, (2) mark dirty, (3) write state,
-- (4) move offsets and clear the mark. Lua is atomic but does not roll back: whatever can be refused is refused in (1),
-- and an error in (3) or (4) leaves the mark, so that no claim succeeds until the view is rebuilt.
--
-- KEYS: A offset records, A visibility streams, W state keys.
-- ARGV: token (32 hex) | to | max_time_us | complete_ms | A | W | entries a visibility stream keeps | from, A times | heads |
-- headers | places | data. The last four are the columns of the writes (see writes.py), little-endian: a head is expected bytes
-- u32, header bytes u16, n u16, ttl ms u64, renew ms u64; a place is position u32, bytes u32, n of them for each head. n = 65535:
-- one place, which is the whole value, and 0 bytes delete the key. A patch gives its key a new ttl from the time "renew ms" on, a
-- whole value always. complete_ms is kept where it is newer than the record's.
-- Four arguments, since the server spends more on taking an argument than on writing a row.
-- Offsets and times are sign and 19 digits (see record.py), compared as strings.
-- Returns {'ok', ms} or {reason, text, 0-based places...}; reasons: dropped fenced offset dirty mismatch expired.
local CLEAN, DROPPED = '-0000000000000000001', '-0000000000000000002'
local call = redis.call
local sub = string.sub
local unpack = struct.unpack
local WHOLE = 65535
local token, to, max_time, complete = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local A, W, kept = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]

-- (1) check everything
if not (A and W) or A < 1 or #KEYS ~= 2 * A + W or #ARGV ~= 11 + A or #token ~= 32 or #to ~= 20 or #max_time ~= 20 or #complete ~= 20 then
  return redis.error_reply('ERR commit: wrong arguments')
end
local known = {}                           -- of each record: the complete_ms that it has
for i = 1, A do
  local key, from = KEYS[i], ARGV[7 + i]
  local record = call('GET', key)
  if not record then
    return {'offset', key .. ' is absent'}
  end
  if #record < 136 or sub(record, 1, 4) ~= 'FFo2' then
    return redis.error_reply('ERR commit: not an offset record: ' .. key)
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
    return redis.error_reply('ERR commit: not a stream: ' .. KEYS[A + i])
  end
end

local heads, headers, places, data = ARGV[8 + A], ARGV[9 + A], ARGV[10 + A], ARGV[11 + A]
local counts, ttls, renews = {}, {}, {}    -- of each state key
local positions, firsts, lasts = {}, {}, {} -- of each patch: where it goes, its first and last byte in data
local expired = {'expired', 'rows were expected, their TTL has passed'}
local head, header, place, at, P = 1, 1, 1, 1, 0
for w = 1, W do
  local key = KEYS[2 * A + w]
  local expected, header_bytes, n, ttl, renew
  expected, header_bytes, n, ttl, renew, head = unpack('<I4I2I2I8I8', heads, head)
  local length = call('STRLEN', key)
  if length ~= expected then
    if length > 0 then
      return {'mismatch', key .. ' has ' .. length .. ' bytes, not ' .. expected, w - 1}
    end
    expired[#expired + 1] = w - 1
  elseif length > 0 and call('GETRANGE', key, 0, header_bytes - 1) ~= sub(headers, header, header + header_bytes - 1) then
    return {'mismatch', key .. ' has another header', w - 1}
  end
  header = header + header_bytes
  local grown = expected
  for _ = 1, n == WHOLE and 1 or n do
    local position, bytes
    position, bytes, place = unpack('<I4I4', places, place)
    if n ~= WHOLE then
      if position > grown or bytes == 0 then
        return redis.error_reply('ERR commit: a patch leaves a hole in ' .. key)
      end
      if position + bytes > grown then
        grown = position + bytes
      end
    end
    P = P + 1
    positions[P], firsts[P], lasts[P] = position, at, at + bytes - 1
    at = at + bytes
  end
  counts[w], ttls[w], renews[w] = n, ttl, renew
end
if head ~= #heads + 1 or header ~= #headers + 1 or place ~= #places + 1 or at ~= #data + 1 then
  return redis.error_reply('ERR commit: ' .. #heads .. ', ' .. #headers .. ', ' .. #places .. ', ' .. #data .. ' bytes of writes, '
    .. (head - 1) .. ', ' .. (header - 1) .. ', ' .. (place - 1) .. ', ' .. (at - 1) .. ' understood')
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
local p = 0
for w = 1, W do
  local key, ttl, n = KEYS[2 * A + w], ttls[w], counts[w]
  if n == WHOLE then
    p = p + 1
    local value = sub(data, firsts[p], lasts[p])
    if #value == 0 then
      call('UNLINK', key)
    elseif ttl > 0 then
      call('SET', key, value, 'PX', ttl)
    else
      call('SET', key, value)
    end
  else
    for _ = 1, n do
      p = p + 1
      call('SETRANGE', key, positions[p], sub(data, firsts[p], lasts[p]))
    end
    if ttl > 0 and ms >= renews[w] then
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

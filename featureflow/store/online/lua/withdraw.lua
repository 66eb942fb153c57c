-- Delete published values. KEYS: of one bucket. ARGV: how those that stay begin (see published.py). One atom, so that what a view
-- that is live publishes meanwhile stays.
-- Returns {how many went}.
local gone = 0
for _, key in ipairs(KEYS) do
  local stays = false
  for _, begins in ipairs(ARGV) do
    stays = stays or redis.call('GETRANGE', key, 0, #begins - 1) == begins
  end
  if not stays then
    gone = gone + redis.call('UNLINK', key)
  end
end
return {gone}

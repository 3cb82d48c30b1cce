-- Whether a request can be answered in time. CAPACITY_FILE says what the server can do (the supervisor's `capacity.py`
-- writes it): requests a second, those under way, and when that was. Each of THREADS has a state of its own.

local IN_TIME = 0.6 -- an answer is promised only within this part of the deadline: it is an estimate
local FRESH_S = 30 -- so long a sample is believed, with what was let in since; a busy machine may be late with the next
local READ_S = 0.1 -- between looks at the file

local known = { read = 0, sampled = 0 }
local admitted = {} -- when, each of those that the sample did not see

local function look_at_file(now)
  if now >= known.read and now - known.read <= READ_S then return end -- a clock may be set back
  known.read = now
  local file = io.open(CAPACITY_FILE)
  local text = file and file:read("*l") or ""
  if file then file:close() end
  local capacity, active, sampled = text:match("^(%S+) (%S+) (%S+)$")
  if not sampled then
    known.capacity, admitted = nil, {}
  elseif tonumber(sampled) ~= known.sampled then
    known.capacity, known.active, known.sampled = tonumber(capacity), tonumber(active), tonumber(sampled)
    local unseen = {}
    for _, at in ipairs(admitted) do
      if at > known.sampled and at <= now then unseen[#unseen + 1] = at end
    end
    admitted = unseen
  end
end

-- Seconds until an answer, if that is too late; the request counts as admitted otherwise.
local function too_late(deadline, now)
  look_at_file(now)
  local age = now - known.sampled
  if not known.capacity or math.abs(age) > FRESH_S then return end
  local waiting = math.max(known.active + #admitted * THREADS - known.capacity * math.max(age, 0), 0)
  local wait = (waiting + 1) / known.capacity
  if waiting >= 4 and wait > IN_TIME * deadline then return wait end
  admitted[#admitted + 1] = now
end

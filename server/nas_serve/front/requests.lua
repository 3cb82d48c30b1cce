-- Looks at each inference request before Triton does: `listeners.py` puts PROTOCOL, THREADS and CAPACITY_FILE, and
-- `admission.lua`, before this text.
--
-- Shapes: the inputs must not claim more elements than the request has bytes (each takes at least one), unless they lie
-- in shared memory. Triton multiplies dimensions without looking for overflow, and allocates what JSON claims.
-- Pictures: a file alone is a request, to `image`; the URL's query may hold thresholds. What Triton gets is its binary extension.
-- Deadlines: who cannot be answered in time is told at once, see `admission.lua`.

local DIMENSION_LIMIT = 2 ^ 31
local SHARED_LIMIT = 2 ^ 31
local JSON_LIMIT = 32 * 2 ^ 20
local PICTURE_LIMIT = 32 * 2 ^ 20 -- of one that comes alone: it is copied here
local FIELDS_LIMIT = 4096 -- of a message, with those inside
local INPUTS_LIMIT = 64
local DEPTH_LIMIT = 32 -- of JSON: Triton reads it recursively
local BRACKETS_LIMIT = 100000
local PATIENCE_S = 60 -- of clients that name no deadline

-- Requests

local function refuse(handle, http_status, grpc_status, message)
  if PROTOCOL == "grpc" then
    handle:respond({
      [":status"] = "200", ["content-type"] = "application/grpc",
      ["grpc-status"] = tostring(grpc_status), ["grpc-message"] = message,
    }, "")
  else
    handle:respond({ [":status"] = tostring(http_status) }, message) -- as JSON, like all replies of Envoy itself
  end
end

-- Elements of a shape; a dimension of 0 must not hide the others.
local function elements_of(dimensions)
  local elements = 1
  for _, dimension in ipairs(dimensions) do
    if dimension < 0 or dimension >= DIMENSION_LIMIT then
      error({ string.format("a dimension of %.0f; expected 0 to 2147483647", dimension) })
    end
    elements = elements * math.max(dimension, 1)
  end
  return elements
end

local function check_elements(elements, limit)
  if elements > limit then
    error({ string.format("the shape claims %.0f elements, but the request has %d bytes of data", elements, limit) })
  end
end

-- A buffer read at any offset, a window at a time.
local function reader(buffer, length)
  local window, from = "", 0
  return function(at)
    if at >= length then error("cut short") end
    if at < from or at >= from + #window then
      from, window = at, buffer:getBytes(at, math.min(4096, length - at))
    end
    return window:byte(at - from + 1)
  end
end

local function varint(byte, at)
  local value, factor = 0, 1
  for i = 0, 9 do
    local b = byte(at + i)
    value = value + (b % 128) * factor
    if b < 128 then return value, at + i + 1 end
    factor = factor * 128
  end
  error("a number of more than 64 bits")
end

-- Calls visit(field, wire type, from, to) for each field of a protobuf message; `budget` counts them.
local function fields(byte, at, stop, budget, visit)
  while at < stop do
    budget.left = budget.left - 1
    if budget.left < 0 then error("too many fields") end
    local key, size
    key, at = varint(byte, at)
    if key < 8 or key >= 2 ^ 32 then error("no field has such a number") end -- some readers cut it, and find another
    local kind = key % 8
    if kind == 0 then
      local from = at
      size, at = varint(byte, at)
      visit(math.floor(key / 8), kind, from, at)
    elseif kind == 1 or kind == 5 then
      at = at + (kind == 1 and 8 or 4)
    elseif kind == 2 then
      size, at = varint(byte, at)
      if at + size > stop then error("cut short") end
      visit(math.floor(key / 8), kind, at, at + size)
      at = at + size
    else
      error("unknown wire type")
    end
  end
end

-- ModelInferRequest: inputs are field 5; in each the shape is 3, parameters are 4.
local function check_grpc(body)
  local length = body:length()
  local byte = reader(body, length)
  if length < 5 then error("cut short") end
  if byte(0) ~= 0 then error({ "compressed messages are not taken here; send them as they are" }) end
  local budget, inputs, sent = { left = FIELDS_LIMIT }, 0, 0
  fields(byte, 5, length, budget, function(field, kind, from, to)
    if field ~= 5 or kind ~= 2 then return end
    inputs = inputs + 1
    if inputs > INPUTS_LIMIT then error("too many inputs") end
    local dimensions, shared = {}, false
    fields(byte, from, to, budget, function(inner, inner_kind, start, stop)
      if inner == 3 then
        while start < stop do
          if #dimensions >= 64 then error("too many dimensions") end
          dimensions[#dimensions + 1], start = varint(byte, start)
        end
      elseif inner == 4 and inner_kind == 2 and stop - start < 4096 then
        shared = shared or body:getBytes(start, stop - start):find("shared_memory_region", 1, true) ~= nil
      end
    end)
    local elements = elements_of(dimensions)
    if shared then check_elements(elements, SHARED_LIMIT) else sent = sent + elements end
  end)
  check_elements(sent, length)
end

-- Lists and objects inside each other, outside of strings.
local function check_depth(text)
  local depth, count, at = 0, 0, 1
  while true do
    at = text:find('[%[%]{}"]', at)
    if not at then return end
    local character = text:sub(at, at)
    if character == '"' then
      repeat
        at = text:find('["\\]', at + 1)
        if not at then return end -- a string without an end: no JSON
        local escaped = text:sub(at, at) == "\\"
        if escaped then at = at + 1 end
      until not escaped
    else
      depth = depth + ((character == "[" or character == "{") and 1 or -1)
      count = count + 1
      if depth > DEPTH_LIMIT then error({ "JSON that is nested more than " .. DEPTH_LIMIT .. " deep" }) end
      if count > BRACKETS_LIMIT then error({ "JSON of too many lists; send tensors as binary data" }) end
    end
    at = at + 1
  end
end

-- The JSON is not parsed, only searched: what Triton reads as a key is found, since keys cannot be escaped.
local function check_http(text, size)
  if text:find("\\u00[2-7]") then
    error({ "ASCII characters in the JSON need not be escaped; send them as they are" })
  end
  check_depth(text)
  local in_json = text:find('"data"[ \t\r\n]*:') ~= nil
  local shared = text:find('"shared_memory_region"', 1, true) ~= nil
  if shared and in_json then error({ "inputs in shared memory beside inputs in JSON; send the others as binary data" }) end
  local sent, count = 0, 0
  for shape in text:gmatch('"shape"[ \t\r\n]*:([^%]]*)') do
    count = count + 1
    if count > INPUTS_LIMIT then error({ "too many inputs" }) end
    local dimensions = {}
    for word in (shape:match("^[ \t\r\n]*%[(.*)$") or "?"):gmatch("[^, \t\r\n]+") do
      if #dimensions >= 64 or not word:match("^%-?%d+$") then error({ "a shape that is no list of integers" }) end
      dimensions[#dimensions + 1] = tonumber(word)
    end
    sent = sent + elements_of(dimensions)
  end
  check_elements(sent, shared and SHARED_LIMIT or in_json and #text or size)
end

-- Pictures that come alone

local SIGNATURES = { "^\255\216\255", "^\137PNG\r\n\26\n", "^BM", "^RIFF....WEBP" }
local THRESHOLDS = { score_threshold = "FP32", iou_threshold = "FP32", max_detections = "INT32" }

local function is_picture(body, size)
  local head = body:getBytes(0, math.min(size, 12))
  for _, signature in ipairs(SIGNATURES) do
    if head:find(signature) then return true end
  end
  return false
end

-- Makes the request of it that the binary extension wants: JSON, the length in four bytes, the picture.
local function complete(body, headers, size)
  local inputs = {
    ('{"name":"image","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}'):format(size + 4),
  }
  for name, value in (headers:get(":path"):match("%?(.*)$") or ""):gmatch("([^&=]+)=?([^&]*)") do
    local datatype = THRESHOLDS[name]
    if not datatype then
      error({ "no parameter of a picture is called " .. name .. "; expected score_threshold, iou_threshold, max_detections" })
    end
    local number = value:match(datatype == "INT32" and "^%d+$" or "^[%d.]+$") and tonumber(value)
    if not number or number >= DIMENSION_LIMIT then error({ name .. "=" .. value .. " is no number that it can be" }) end
    local input = '{"name":"%s","shape":[1,1],"datatype":"%s","data":[%.9g]}'
    inputs[#inputs + 1] = input:format(name, datatype, number)
  end
  local json = '{"inputs":[' .. table.concat(inputs, ",") .. "]}"
  local four = string.char(size % 256, math.floor(size / 2 ^ 8) % 256, math.floor(size / 2 ^ 16) % 256, math.floor(size / 2 ^ 24))
  local length = body:setBytes(json .. four .. body:getBytes(0, size))
  headers:replace("content-length", tostring(length))
  headers:replace("content-type", "application/octet-stream")
  headers:replace("inference-header-content-length", tostring(#json))
end

-- Time

local UNITS = { H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9 }

local function grpc_deadline(header)
  local number, unit = (header or ""):match("^(%d+)([HMSmun])$")
  return number and tonumber(number) * UNITS[unit]
end

-- What is asked of the body, then of time: raises {message}, or returns what to refuse with, or nothing.
local function look(handle)
  local body = handle:body(true)
  local headers = handle:headers() -- those from before the body came are gone
  local size, deadline = body:length(), nil
  if PROTOCOL == "grpc" then
    deadline = grpc_deadline(headers:get("grpc-timeout"))
    check_grpc(body)
  else
    local encoding = headers:get("content-encoding")
    if encoding and encoding ~= "identity" then
      return { 415, 3, "compressed requests are not taken here; send them as they are" }
    end
    local given = headers:get("inference-header-content-length")
    if given and not (given:match("^%d+$") and #given <= 9 and tonumber(given) <= size) then
      error({ "inference-header-content-length is no length of this request" })
    end
    if (given == nil or tonumber(given) == 0) and is_picture(body, size) then
      if size > PICTURE_LIMIT then
        return { 413, 8, size .. " bytes of picture; expected at most " .. PICTURE_LIMIT .. ": send it as binary data of a tensor" }
      end
      complete(body, headers, size)
      given = headers:get("inference-header-content-length")
    end
    local json_size = tonumber(given or size)
    if given then headers:replace("inference-header-content-length", string.format("%d", json_size)) end
    if json_size > JSON_LIMIT then
      return { 413, 8, json_size .. " bytes of JSON; expected at most " .. JSON_LIMIT .. ": send tensors as binary data" }
    end
    local text = body:getBytes(0, json_size)
    check_http(text, size)
    local microseconds = tonumber(text:match('"timeout"[ \t\r\n]*:[ \t\r\n]*(%d+)'))
    if microseconds and microseconds > 0 then
      deadline = microseconds / 1e6
      headers:replace("x-envoy-upstream-rq-timeout-ms", string.format("%d", math.ceil(deadline * 1000)))
    end
  end
  local wanted = deadline or PATIENCE_S
  local wait = too_late(wanted, handle:timestamp() / 1000)
  if wait then
    local late = "the server is overloaded: an answer is estimated to take %.1f s, too near to the deadline of %.1f s"
    return { 503, 14, late:format(wait, wanted) }
  end
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path"):gsub("%?.*$", "")
  if not (path:match("/infer$") or path:match("/ModelInfer$")) then return end
  local fine, refusal = pcall(look, handle) -- a request that this script cannot read must not pass
  if not fine then
    local words = type(refusal) == "table" and refusal[1] or tostring(refusal):gsub("^.*%]:%d+: ", "")
    refusal = { 400, 3, "refused before the model: " .. words }
  end
  if refusal then refuse(handle, unpack(refusal)) end
end

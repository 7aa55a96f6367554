-- Brings what callers show into one form, before any of it is believed: a token in `authorization`, an API key in
-- `x-api-key`. Nothing is let through here.

local KEY = "x-api-key"
local PROTOCOLS = "sec-websocket-protocol"

-- Browsers cannot set headers of a WebSocket, but they can name protocols:
-- `tritonforge.v1, bearer.TOKEN` or `tritonforge.v1, bearer.KEY`. The facade shall see the first only.
local function from_protocols(headers)
  local offered = headers:get(PROTOCOLS)
  if not offered or not string.find(offered, "bearer.", 1, true) then
    return
  end
  local kept = {}
  for protocol in string.gmatch(offered, "[^,%s]+") do
    local credential = string.match(protocol, "^bearer%.(.+)$")
    if credential then
      headers:add("authorization", "Bearer " .. credential)
    else
      kept[#kept + 1] = protocol
    end
  end
  headers:remove(PROTOCOLS)
  if #kept > 0 then
    headers:add(PROTOCOLS, table.concat(kept, ", "))
  end
end

-- OpenAI's clients send an API key as a bearer token.
local function from_bearer(headers, shown)
  local scheme, credential = string.match(shown, "^(%a+) +(%S+)$")
  if not scheme or string.lower(scheme) ~= "bearer" then
    return
  end
  if string.sub(credential, 1, #SETTINGS.key_prefix) == SETTINGS.key_prefix then
    headers:remove("authorization")
    headers:add(KEY, credential)
  else
    headers:replace("authorization", "Bearer " .. credential)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if SETTINGS.open_to_all then
    headers:remove("authorization")
    headers:remove(KEY)
    return
  end
  from_protocols(headers)
  local shown = headers:get("authorization")
  if shown then
    from_bearer(headers, shown)
  end
  shown = headers:get("authorization")
  local keys = headers:getNumValues(KEY)
  -- Envoy joins headers of one name by commas, which no credential has.
  if keys + (shown and 1 or 0) > 1 or (shown and string.find(shown, ",", 1, true)) then
    return refuse(handle, "unauthenticated", "two credentials are shown", "send one token or one API key")
  end
  local ask = keys > 0
  if keys > 0 and not SETTINGS.api_keys then
    return refuse(handle, "unauthenticated", "no API keys are taken here", "send a bearer token")
  end
  if not ask and SETTINGS.counts_kserve then
    ask = handle:metadata():get("api") == "kserve"
  end
  if ask then
    handle:streamInfo():dynamicMetadata():set(SETTINGS.namespace, "ask", "facade")
  end
end

-- Who may do what: the one place where a request is let through or refused.
--
-- SETTINGS (gateway/envoy/lua.py) says whom to believe and which pool serves which model. Two filters run this file:
-- `identify`, after the signature of a token was checked, and `authorize`, after API keys were looked up and the
-- model's name was read out of a gRPC message.

local SUBJECT = "x-tritonforge-subject"
local SCOPES = "x-tritonforge-scopes"
local EXPIRES = "x-tritonforge-expires"
local POOL = "x-tritonforge-pool"

-- Printable ASCII only, and no two subjects made one: they go into headers, logs and keys of limits.
local function printable(text)
  return (string.gsub(text, "[^\33-\36\38-\126]", function(character)
    return string.format("%%%02X", string.byte(character))
  end))
end

-- A claim of scopes: a string of words, or a list of them.
local function words(claim)
  if type(claim) == "table" then
    local list = {}
    for _, word in ipairs(claim) do
      if type(word) == "string" then
        list[#list + 1] = word
      end
    end
    claim = table.concat(list, " ")
  end
  return type(claim) == "string" and string.gsub(claim, "[^\33-\126]+", " ") or ""
end

local function set_identity(headers, subject, scopes)
  headers:replace(SUBJECT, subject)
  headers:replace(SCOPES, scopes)
end

-- Whom a verified token stands for. Its signature, issuer, audience and times have been checked.
local function from_token(handle, headers)
  local verified = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.jwt_authn")
  local claims = verified and verified["claims"]
  if not claims then
    return false
  end
  local issuer = SETTINGS.issuers[claims["iss"]]
  -- Whoever can read a shared secret can sign with it: only the development issuer may have one.
  if not issuer or not issuer.algorithms[verified["header"]["alg"]] then
    refuse(handle, "unauthenticated", "the token's algorithm is not taken", "ask its issuer for RS256 or ES256")
    return true
  end
  local subject = claims["sub"]
  if type(subject) ~= "string" or subject == "" or #subject > 256 then
    refuse(handle, "unauthenticated", "the token has no claim sub", "ask its issuer for one of 1 to 256 bytes")
    return true
  end
  -- The names of API keys begin so, and those of other issuers where there are several.
  subject = issuer.prefix .. printable(subject)
  if string.sub(subject, 1, 4) == "key:" then
    refuse(handle, "unauthenticated", "the token's subject is the name of an API key", "ask for another token")
    return true
  end
  set_identity(headers, subject, words(claims[SETTINGS.scope_claim]))
  -- A WebSocket may outlive its token; the facade looks before each request on it.
  if type(claims["exp"]) == "number" then
    headers:replace(EXPIRES, string.format("%.0f", claims["exp"]))
  end
  return false
end

function identify(handle)
  local headers = handle:headers()
  local api = handle:metadata():get("api")
  if api == nil then
    return refuse(handle, "not_found", "there is nothing at this path", "GET /openapi.json lists every path")
  elseif api == "open" then
    return
  elseif handle:metadata():get("model") == "message" and (headers:get("grpc-encoding") or "identity") ~= "identity" then
    return refuse(
      handle, "invalid_value", "a compressed message does not show which model it is for", "send it uncompressed",
      "grpc-encoding"
    )
  elseif SETTINGS.open_to_all then
    return set_identity(headers, "anonymous", SETTINGS.all_scopes)
  elseif headers:get("x-api-key") then
    return -- ext_authz asks the facade next
  elseif not from_token(handle, headers) and not headers:get(SUBJECT) then
    refuse(handle, "unauthenticated", "no token and no API key is shown", "send a bearer token or an API key")
  end
end

-- The model that a raw KServe request names; nil after a refusal.
local function model_of(handle, headers, place)
  local name
  if place == "path" then
    name = string.match(headers:get(":path"), "^/v2/models/([^/?]+)")
  else
    local fields = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.grpc_field_extraction")
    local values = fields and (fields["model_name"] or fields["name"])
    name = values and values[#values]
  end
  if not name or not string.find(name, "^[%w_.-]+$") or #name > 128 then
    return refuse(handle, "invalid_value", "the request names no model, or in a way that is none", "name one", "model")
  end
  handle:streamInfo():dynamicMetadata():set(SETTINGS.namespace, "model", name)  -- for the access log
  return name
end

local function authorize_kserve(handle, headers, scopes, place)
  local model
  if place == "all" and not scopes["model:*"] then
    return refuse(
      handle, "forbidden", "scope model:* is missing, for a stream may name many models",
      "ask for a token with scope model:*", "model"
    )
  elseif place == "path" or place == "message" then
    model = model_of(handle, headers, place)
    if not model then
      return
    elseif not scopes["model:*"] and not scopes["model:" .. model] then
      local scope = "scope model:" .. model
      return refuse(handle, "forbidden", scope .. " is missing", "ask for a token with " .. scope, "model")
    end
  end
  local pool = model and (SETTINGS.pools[model] or SETTINGS.pools["*"]) or SETTINGS.default_pool
  if not pool then
    return refuse(handle, "model_not_found", "no pool serves " .. model, "GET /v1/models lists models", "model")
  end
  headers:replace(POOL, pool)
  handle:clearRouteCache()
end

function authorize(handle)
  local headers = handle:headers()
  local route = handle:metadata()
  local api = route:get("api")
  if api == "open" then
    return
  end
  local subject = headers:get(SUBJECT)
  if not api or not subject or subject == "" then
    return refuse(handle, "unauthenticated", "nobody is named", "send a bearer token or an API key")
  end
  local scopes = {}
  for scope in string.gmatch(headers:get(SCOPES) or "", "%S+") do
    scopes[scope] = true
  end
  if api ~= "any" and not scopes[api] then
    return refuse(handle, "forbidden", "scope " .. api .. " is missing", "ask for a token with scope " .. api)
  elseif api == "kserve" then
    authorize_kserve(handle, headers, scopes, route:get("model"))
  end
end

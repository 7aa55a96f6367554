-- Answers a request instead of letting it through; gateway/envoy/local_replies.py puts it into form.

-- google.rpc.Status { code, message, details: [ErrorInfo] }, for gRPC clients that read details.
local function grpc_details(handle, answer, message)
  local length = #message
  local size = length < 128 and string.char(length) or string.char(length % 128 + 128, math.floor(length / 128))
  return handle:base64Escape(
    string.char(0x08, answer.grpc, 0x12) .. size .. message .. string.char(0x1a, #answer.info) .. answer.info
  )
end

function refuse(handle, code, detail, mend, field)
  local answer = SETTINGS.codes[code]
  local data = handle:streamInfo():dynamicMetadata()
  data:set(SETTINGS.namespace, "code", code)
  data:set(SETTINGS.namespace, "title", answer.title)
  data:set(SETTINGS.namespace, "mend", mend)
  if field then
    data:set(SETTINGS.namespace, "field", field)
  end
  local headers = { [":status"] = answer.http }
  if code == "unauthenticated" then
    headers["www-authenticate"] = 'Bearer realm="tritonforge"'
  end
  local kind = handle:headers():get("content-type") or ""
  if string.sub(kind, 1, 16) == "application/grpc" then
    headers["grpc-status"] = tostring(answer.grpc)
    headers["grpc-status-details-bin"] = grpc_details(handle, answer, detail)
  end
  handle:respond(headers, detail)
end

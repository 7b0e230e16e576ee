-- Orthanc beside Hilum, in compose.yml: who may ask it over HTTP, and how Hilum learns of a study.

local secrets = os.getenv('HILUM_SECRETS') or '/run/secrets'
local own = os.getenv('HILUM_SECRETS') and {} or {['127.0.0.1'] = true, ['::1'] = true}
local hilum = os.getenv('HILUM_URL') or 'http://hilum:8000'

-- The token in the first line of a file: its last word, for a name may stand before it.
local function token(name)
  local file = io.open(secrets .. '/' .. name, 'r')
  if file == nil then return nil end
  local line = file:read('*l') or ''
  file:close()
  return line:match('(%S+)%s*$')
end

-- Each request from outside the container needs "Authorization: Bearer TOKEN". Without a token nobody is let in.
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  if own[ip] then return true end -- the health check
  local expected = token('orthanc-token')
  return expected ~= nil and headers['authorization'] == 'Bearer ' .. expected
end

function OnStableStudy(id, tags, metadata)
  local known = token('hilum-token')
  if known == nil then return end
  HttpPost(hilum .. '/v1/pacs/archive', '{"study_uid": "' .. tags['StudyInstanceUID'] .. '"}',
           {['Content-Type'] = 'application/json', ['Authorization'] = 'Bearer ' .. known})
end

-- wrk script: every request carries a traceparent of its own, as the requests of a traced application do.
local count = 0

function request()
  count = count + 1
  wrk.headers["traceparent"] = string.format("00-%032x-b7ad6b7169203331-01", count)
  return wrk.format()
end

-- Copyright (c) steady.rollout developers
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- Weights and states of NGINX's servers that change without a reload, with nothing but the Lua module of the distribution.
--
-- It must never send a request to a server that is not ready, lose count of a request that is in flight, or answer that a change was
-- made which is not on disk. NGINX without the patches of OpenResty, LuaJIT 2.1 and lua-resty-core are all it needs.
--
-- What nginx.conf needs (Debian: libnginx-mod-http-lua, which brings lua-resty-core):
--
--   load_module modules/ndk_http_module.so;                # these two unless modules-enabled/ has them
--   load_module modules/ngx_http_lua_module.so;
--   http {
--       lua_package_path "/etc/nginx/steady-rollout/?.lua;/usr/share/lua/5.1/?.lua;;";
--       lua_shared_dict steady_rollout 4m;                  # enough for 2000 servers
--       init_by_lua_block {
--           require("steady_rollout").load{
--               dir = "/var/lib/steady-rollout-nginx",      # belongs to the workers' user, 0750
--               socket = "/run/steady-rollout-nginx/api.sock",
--               upstreams = {shop = {{name = "10.0.0.1:8080", address = "10.0.0.1", port = 8080, weight = 10},
--                                    {name = "unix:/run/b.sock", address = "unix:/run/b.sock", weight = 10}}},
--           }
--       }
--       log_by_lua_block { require("steady_rollout").log() }
--       upstream shop {
--           server 0.0.0.1;                                 # never asked; nginx wants one
--           balancer_by_lua_block { require("steady_rollout").balance("shop") }
--           keepalive 64;                                   # after the balancer, or it is not used
--       }
--       server {
--           listen unix:/run/steady-rollout-nginx/api.sock; # in a directory that only root may enter, 0700
--           access_log off;
--           location / { content_by_lua_block { require("steady_rollout").api() } }
--       }
--       server { ... location / { proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection ""; } }
--   }
--
-- A server or location with a log_by_lua of its own does not inherit the one above, and must call log() itself.

local balancer = require "ngx.balancer"
local base = require "resty.core.base"
local ffi = require "ffi"

local C, dict = ffi.C, ngx.shared.steady_rollout
local floor, format = math.floor, string.format

ffi.cdef [[
    int open(const char *path, int flags, ...);
    int close(int fd);
    long read(int fd, void *buffer, unsigned long size);
    long write(int fd, const void *buffer, unsigned long size);
    int fsync(int fd);
    int flock(int fd, int operation);
    int rename(const char *from, const char *to);
    int unlink(const char *path);
    int access(const char *path, int mode);
    int usleep(unsigned int microseconds);
    int kill(int pid, int signal);
    int getppid(void);
    char *strerror(int number);
]]

-- Of Linux on x86, ARM and POWER.
local O_WRONLY, O_CREAT, O_EXCL, O_NONBLOCK, O_CLOEXEC = 1, 64, 128, 2048, 524288
local LOCK_EX_NB = 6
local W_OK_X_OK = 3
local ENOENT, ESRCH, ENXIO = 2, 3, 6

local FORMAT = 1
local READY, DRAIN, DOWN = "ready", "drain", "down"
local STATES = {[READY] = true, [DRAIN] = true, [DOWN] = true}
local MAX_WEIGHT = 100000
-- A place in the cycle, times its stride, must be a whole number for a double.
local MAX_TOTAL = 1e8
local LONGEST_LIST = 4096
local GOLDEN = (math.sqrt(5) - 1) / 2
-- As `max_fails=1 fail_timeout=10s`, which is what NGINX does by itself.
local OUT_SECONDS = 10
local LOCK_SECONDS, LOCK_PAUSE = 5, 0.01
local BIGGEST_FILE = 16 * 1024 * 1024
-- What the dictionary must hold of a server: its state twice, and its requests in flight for each of 16 workers.
local SERVER_BYTES = 2048
-- Has ngx.exit() end the search for a server as NGINX's own balancers do: it answers 502. Any other status would become a 500.
local NGX_BUSY = -3

local M = {}
local conf        -- what load() was told: {dir, upstreams, names}
local me          -- the pid of this worker, once it has counted
local views = {}  -- {upstream: what was made of one version of its state}
-- {id: {server: which is counted as asked, tried: {name: true}}} of each request that is in flight. Not in ngx.ctx: an internal redirect
-- empties it.
local flights = {}
-- {request: ids of its subrequests}: nothing tells when they end, at the latest they do with it.
local subrequests = {}


-- JSON, in what little of it is needed here: Debian's Lua module brings no library for it.

local ESCAPED = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local DEEPEST = 16

local function utf8(code)
    if code < 0x80 then
        return string.char(code)
    elseif code < 0x800 then
        return string.char(0xC0 + floor(code / 64), 0x80 + code % 64)
    end
    return string.char(0xE0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

local function decoded(text)
    local value
    local place = 1

    local function wrong(what)
        error({json = format("%s at byte %d", what, place)}, 0)
    end

    local function skip()
        place = text:find("[^ \t\r\n]", place) or #text + 1
        return text:sub(place, place)
    end

    local function str()
        local last = place
        repeat
            last = text:find('["\\%c]', last + 1)
            local found = last and text:sub(last, last)
            if found == "\\" then
                last = last + 1
            elseif found ~= '"' then
                wrong("a string that does not end")
            end
        until found == '"'
        local raw = text:sub(place + 1, last - 1)
        place = last + 1
        if not raw:find("\\", 1, true) then
            return raw
        end
        return (raw:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, digits)
            if kind == "u" then
                return #digits == 4 and utf8(tonumber(digits, 16)) or wrong("a broken escape before the end of a string")
            end
            return (ESCAPED[kind] or wrong("an unknown escape before the end of a string")) .. digits
        end))
    end

    local function items(closing, depth, each)
        place = place + 1
        if skip() ~= closing then
            repeat
                each(depth)
                local found = skip()
                if found ~= "," and found ~= closing then
                    wrong("no , or " .. closing)
                end
                place = place + 1
            until found == closing
        else
            place = place + 1
        end
    end

    function value(depth)
        local found = skip()
        if depth > DEEPEST then
            wrong("too deep")
        elseif found == '"' then
            return str()
        elseif found == "{" then
            local object = {}
            items("}", depth + 1, function(inner)
                if skip() ~= '"' then
                    wrong("no name")
                end
                local name = str()
                if skip() ~= ":" then
                    wrong("no :")
                end
                place = place + 1
                object[name] = value(inner)
            end)
            return object
        elseif found == "[" then
            local list = {}
            items("]", depth + 1, function(inner)
                list[#list + 1] = value(inner)
            end)
            return list
        end
        local word = text:match("^[%w.+-]+", place) or wrong("no value")
        place = place + #word
        if word == "true" or word == "false" then
            return word == "true"
        elseif word == "null" then
            return nil
        end
        return word:find("^-?%d[%d.eE+-]*$") and tonumber(word) or wrong("no value before here")
    end

    local fine, found = pcall(function()
        local whole = value(0)
        if skip() ~= "" then
            wrong("something after the end")
        end
        return whole
    end)
    if fine then
        return found
    end
    return nil, type(found) == "table" and found.json or tostring(found)
end

local function quoted(text)
    return '"' .. text:gsub('[%c"\\]', function(char)
        return format("\\u%04x", char:byte())
    end) .. '"'
end


-- Files, with what Lua's own library lacks: flush, lock, and an open that does not wait

local function problem(what)
    return what .. ": " .. ffi.string(C.strerror(ffi.errno()))
end

local function opened(path, flags)
    return C.open(path, flags + O_CLOEXEC, ffi.cast("int", 416))  -- 0640
end

-- Returns nil, why and the error's number. Root reads what the workers' user owns: a pipe must not hold up the start of NGINX.
local function content(path)
    local fd = opened(path, O_NONBLOCK)
    if fd < 0 then
        local number = ffi.errno()
        return nil, problem(path), number
    end
    local buffer, parts, size = ffi.new("char[?]", 65536), {}, 0
    local got = C.read(fd, buffer, 65536)
    while got > 0 and size <= BIGGEST_FILE do
        parts[#parts + 1] = ffi.string(buffer, got)
        size = size + tonumber(got)
        got = C.read(fd, buffer, 65536)
    end
    local why = got < 0 and problem(path) or size > BIGGEST_FILE and path .. ": too large"
    C.close(fd)
    return not why and table.concat(parts) or nil, why
end

local function written(fd, text)
    local offset = 0
    while offset < #text do
        local count = C.write(fd, ffi.cast("const char *", text) + offset, #text - offset)
        if count < 0 then
            return false
        end
        offset = offset + tonumber(count)
    end
    return C.fsync(fd) == 0
end

-- Whole or not there. Returns why it could not be done; then the old file is still there.
local function replaced(path, text, folder)
    local beside = path .. ".new"
    C.unlink(beside)
    local fd = opened(beside, O_WRONLY + O_CREAT + O_EXCL)
    if fd < 0 then
        return problem(beside)
    end
    local why = not written(fd, text) and problem(beside)
    C.close(fd)
    if not why and C.rename(beside, path) ~= 0 then
        why = problem(path)
    end
    if why then
        C.unlink(beside)
        return why
    end
    if C.fsync(folder) ~= 0 then
        -- The file is in place. Only a loss of power within the next seconds could still bring the old one back.
        ngx.log(ngx.ERR, problem("steady_rollout: flush of " .. conf.dir))
    end
end

-- Calls `work` with the open directory, held against all other workers and the master. The kernel frees it with its holder, however
-- that ends. Returns what `work` returns, or nil and why.
local function alone(pause, work)
    local folder = opened(conf.dir, 0)
    if folder < 0 then
        return nil, problem(conf.dir)
    end
    local tries = LOCK_SECONDS / LOCK_PAUSE
    while C.flock(folder, LOCK_EX_NB) ~= 0 do
        tries = tries - 1
        if tries < 0 then
            C.close(folder)
            return nil, conf.dir .. " is locked by another change for too long"
        end
        pause()
    end
    local fine, result, why = pcall(work, folder)
    C.close(folder)
    if not fine then
        error(result, 0)
    end
    return result, why
end

local function pause_master()
    C.usleep(LOCK_PAUSE * 1e6)
end

local function pause_worker()
    ngx.sleep(LOCK_PAUSE)
end


-- State: in the dictionary one text per version of an upstream, and the version that is in force. One store of a number changes all.

local function state_key(name, version)
    return format("state/%s/%.0f", name, version)
end

local function current(name)
    -- A version that is gone when it is looked for was replaced in between.
    for _attempt = 1, 100 do
        local version = dict:get("version/" .. name)
        local text = version and dict:get(state_key(name, version))
        if text then
            return decoded(text)
        elseif not version then
            return nil
        end
    end
end

-- Returns the text of a state for the dictionary, or for the file.
local function encoded(state, with_places)
    local lines = {}
    for place, one in ipairs(state.servers) do
        local more = with_places and format(',"address":%s,"port":%s,"base_weight":%d', quoted(one.address), one.port or "null",
            one.base_weight) or ""
        lines[place] = format('{"name":%s,"weight":%d,"state":"%s"%s}', quoted(one.name), one.weight, one.state, more)
    end
    return format('{"format":%d,"version":%.0f,"servers":[%s]}\n', FORMAT, state.version, table.concat(lines, ",\n"))
end

-- Above all versions of before, those of before a restart included, of which nothing may be known.
local function next_version(name)
    return math.max((dict:get("version/" .. name) or 0) + 1, floor(ngx.now() * 1000))
end

-- Puts a state in force, once `keep` has kept it. Returns why it could not be done, and then nothing has changed.
local function enact(name, state, keep)
    local key = state_key(name, state.version)
    local stored, why = dict:safe_set(key, encoded(state, true))
    if not stored then
        return "lua_shared_dict steady_rollout cannot hold it: " .. why
    end
    why = keep and keep()
    if why then
        dict:delete(key)
        return why
    end
    local before = dict:get("version/" .. name)
    stored, why = dict:safe_set("version/" .. name, state.version)
    if not stored then
        return "lua_shared_dict steady_rollout cannot hold its version: " .. why
    end
    if before then
        dict:delete(state_key(name, before))
    end
end

local function is_weight(weight)
    return type(weight) == "number" and weight >= 1 and weight <= MAX_WEIGHT and weight == floor(weight)
end

-- Returns why a list is none of [{name, weight, state}], each server once.
local function flaw(servers)
    if type(servers) ~= "table" or #servers == 0 then
        return "servers is no list with at least one server"
    end
    local seen = {}
    for _place, one in ipairs(servers) do
        if type(one) ~= "table" or type(one.name) ~= "string" then
            return "a server has no name"
        elseif seen[one.name] then
            return "server " .. one.name .. " is listed twice"
        elseif not is_weight(one.weight) then
            return format("server %s: weight %s is no whole number from 1 to %d", one.name, tostring(one.weight), MAX_WEIGHT)
        elseif not STATES[one.state] then
            return format("server %s: state %s is not one of ready, drain, down", one.name, tostring(one.state))
        end
        seen[one.name] = true
    end
end

local function path_of(name)
    return conf.dir .. "/" .. name .. ".json"
end

-- What is on disk of an upstream. Returns nil, why, and whether there is just no file.
local function kept(name)
    local text, why, number = content(path_of(name))
    if not text then
        return nil, why, number == ENOENT
    end
    local state, broken = decoded(text)
    if type(state) ~= "table" or state.format ~= FORMAT then
        return nil, path_of(name) .. " is no state of format " .. FORMAT .. (broken and ": " .. broken or "")
    end
    why = flaw(state.servers)
    return not why and state or nil, why and path_of(name) .. ": " .. why
end

-- The servers of the configuration, with weights and states of `state` where it has them.
local function overlaid(name, state)
    local known, servers = {}, {}
    for _place, one in ipairs(state and state.servers or {}) do
        known[one.name] = one
    end
    for place, one in ipairs(conf.upstreams[name]) do
        local old = known[one.name]
        servers[place] = {
            name = one.name,
            address = one.address,
            port = one.port,
            base_weight = one.weight,
            weight = old and old.weight or one.weight,
            state = old and old.state or READY,
        }
    end
    return servers
end

-- Whether anybody has changed what the configuration said.
local function is_moved(state)
    for _place, one in ipairs(state.servers) do
        if one.weight ~= one.base_weight or one.state ~= READY then
            return true
        end
    end
    return false
end

local function gcd(a, b)
    while b ~= 0 do
        a, b = b, a % b
    end
    return a
end

local function too_heavy(servers)
    local total = 0
    for _place, one in ipairs(servers) do
        total = total + one.weight
    end
    return total > MAX_TOTAL and format("the weights add up to more than %.0f", MAX_TOTAL) or nil
end


-- load(): the master, at the start and at each reload

local function refuse(text, ...)
    error("steady_rollout: " .. format(text, ...), 0)
end

local function check_server(upstream, one, seen)
    if type(one) ~= "table" or type(one.name) ~= "string" or one.name == "" then
        refuse("upstream %s has a server without a name", upstream)
    elseif seen[one.name] then
        refuse("upstream %s has server %s twice", upstream, one.name)
    elseif one.backup then
        refuse("server %s of upstream %s: backup servers are not supported here; leave it out", one.name, upstream)
    elseif not is_weight(one.weight) then
        refuse("server %s of upstream %s: weight %s is no whole number from 1 to %d", one.name, upstream, tostring(one.weight), MAX_WEIGHT)
    end
    local address = tostring(one.address)
    local is_unix = address:find("^unix:/") ~= nil
    -- A name cannot be resolved where a server is chosen.
    if not is_unix and not address:find("^%d+%.%d+%.%d+%.%d+$") and not address:find("^%[?[%x:.]*:[%x:.]*%]?$") then
        refuse("server %s of upstream %s: %s is neither an IP address nor unix:/PATH", one.name, upstream, address)
    elseif is_unix ~= (one.port == nil) or not is_unix and not (tonumber(one.port) and one.port > 0 and one.port < 65536) then
        refuse("server %s of upstream %s: port %s does not go with %s", one.name, upstream, tostring(one.port), address)
    end
    seen[one.name] = true
end

local function check(options)
    local names, count = {}, 0
    for name, servers in pairs(options.upstreams) do
        -- It names a file.
        if not name:find("^[%w_-][%w_.-]*$") then
            refuse("upstream %s: only letters, digits and _ - . can be in its name", name)
        elseif #servers == 0 then
            refuse("upstream %s has no servers", name)
        end
        local seen = {}
        for _place, one in ipairs(servers) do
            check_server(name, one, seen)
        end
        local heavy = too_heavy(servers)
        if heavy then
            refuse("upstream %s: %s", name, heavy)
        end
        names[#names + 1] = name
        count = count + #servers
    end
    if not dict then
        refuse("there is no lua_shared_dict steady_rollout")
    elseif dict:capacity() < count * SERVER_BYTES then
        refuse("%d servers need a lua_shared_dict steady_rollout of %dk", count, math.ceil(count * SERVER_BYTES / 1024))
    end
    table.sort(names)
    return names
end

-- A master that was killed leaves its socket, and none can start again over it: NGINX removes only what it has itself bound.
local function remove_left_over(path)
    local file, _why, number = io.open(path)
    if file then
        file:close()
    end
    if number ~= ENXIO then
        return  -- not there, or no socket
    end
    local sockets = content("/proc/net/unix")
    if sockets and not (sockets .. "\n"):find(" " .. path .. "\n", 1, true) then
        os.remove(path)
    end
end

function M.load(options)
    local names = check(options)
    conf = {dir = options.dir, upstreams = options.upstreams, names = names}
    if options.socket then
        remove_left_over(options.socket)
    end

    local function load_all()
        for _place, name in ipairs(names) do
            local state, why, is_absent = kept(name)
            if why then
                -- Over a reload the dictionary is still there. What is as the configuration had it may follow the configuration.
                state = current(name)
                state = state and is_moved(state) and state or nil
                local then_what = state and "the weights and states in force stay" or "weights and states are those of the configuration"
                ngx.log(is_absent and not state and ngx.NOTICE or ngx.ERR, "steady_rollout: upstream ", name, ": ", why, "; ", then_what)
            end
            -- Should the reload fail after this, the old workers go on with the new list of servers: it is in force all the same.
            why = enact(name, {version = next_version(name), servers = overlaid(name, state)})
            if why then
                refuse("upstream %s: %s", name, why)
            end
        end
        return true
    end

    local done, why = alone(pause_master, load_all)
    if not done then
        ngx.log(ngx.ERR, "steady_rollout: ", why, "; no change of weights or states can be kept")
        load_all()
    end
end


-- Choosing. A wheel is a cycle as long as its weights add up to; the n-th request of all workers has the n-th place. Steps of about
-- the golden ratio spread each server's places evenly over any stretch of it, as smooth weighted round robin does, and visit each
-- place once in a cycle, so that shares are exact. It needs no list of places, whatever the weights are; short cycles have one, as
-- LuaJIT compiles nothing that has a loop in it together with what is around it. That is why the usual way of a request has none.

local function place_of(wheel, tick)
    local place = tick % wheel.total * wheel.stride % wheel.total
    local low, high = 1, #wheel.servers
    while low < high do
        local middle = floor((low + high) / 2)
        if place < wheel.ends[middle] then
            high = middle
        else
            low = middle + 1
        end
    end
    return wheel.servers[low]
end

local function wheel_of(servers)
    local common = 0
    for _place, one in ipairs(servers) do
        common = gcd(common, one.weight)
    end
    local total, ends = 0, {}
    for place, one in ipairs(servers) do
        total = total + one.weight / common
        ends[place] = total
    end
    local stride = floor(total * GOLDEN)
    while gcd(total, stride) ~= 1 do
        stride = stride + 1
    end
    return {servers = servers, ends = ends, total = total, stride = stride}
end

local function list_of(wheel)
    local list = {}
    for tick = 0, wheel.total - 1 do
        list[tick] = place_of(wheel, tick)
    end
    return list
end

local function at(wheel, tick)
    return wheel.list and wheel.list[tick % wheel.total] or place_of(wheel, tick)
end

-- As set_current_peer() wants it.
local function bracketed(address)
    return address:find(":", 1, true) and not address:find("^unix:") and not address:find("^%[") and "[" .. address .. "]" or address
end

local function refreshed(name)
    local state = current(name)
    if not state then
        views[name] = nil
        return nil
    end
    local ready = {}
    for _place, one in ipairs(state.servers) do
        if one.state == READY then
            ready[#ready + 1] = {
                name = one.name,
                address = bracketed(one.address),
                port = one.port,
                weight = one.weight,
                count_key = format("count/%d/%s/%s", me, name, one.name),
                out_key = format("out/%s/%s", name, one.name),
            }
        end
    end
    local wheel = #ready > 0 and wheel_of(ready)
    if wheel and wheel.total <= LONGEST_LIST then
        wheel.list = list_of(wheel)
    end
    local view = {
        version = state.version,
        version_key = "version/" .. name,
        tick_key = "tick/" .. name,
        again_key = "again/" .. name,
        ready = ready,
        wheel = wheel,
    }
    views[name] = view
    return view
end

local function next_tick(key)
    return dict:incr(key, 1, 0) or 0
end

-- Among those that were not tried and did not fail lately; else among those that were not tried; else among all.
local function another(view, tried)
    local fresh, untried = {}, {}
    for _place, one in ipairs(view.ready) do
        if not (tried and tried[one.name]) then
            untried[#untried + 1] = one
            if not dict:get(one.out_key) then
                fresh[#fresh + 1] = one
            end
        end
    end
    -- With none untried NGINX asks again only when a connection that was kept alive was closed by the server: all may be tried again.
    local rest = #fresh > 0 and fresh or #untried > 0 and untried or view.ready
    return at(wheel_of(rest), next_tick(view.again_key))
end

local function choose(view, tried)
    if not view.wheel then
        return nil
    end
    local server = at(view.wheel, next_tick(view.tick_key))
    if tried and tried[server.name] or dict:get(server.out_key) then
        return another(view, tried)
    end
    return server
end

local function count(key, step)
    local _value, why, forced = dict:incr(key, step, 0)
    if why or forced then
        ngx.log(ngx.ERR, "steady_rollout: lua_shared_dict steady_rollout is too small, requests in flight are miscounted: ", why)
    end
end

-- Counts at the key of a worker that had the same pid are not ours.
local function begin_to_count()
    me = ngx.worker.pid()
    local mine = format("count/%d/", me)
    for _place, key in ipairs(dict:get_keys(0)) do
        if key:sub(1, #mine) == mine then
            dict:delete(key)
        end
    end
end

-- Unique in this worker while the request, or subrequest, is in flight.
local function id_of_this()
    return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", base.get_request())))
end

-- The same for a request and its subrequests; also over HTTP/2, where many requests share a connection.
local function family()
    return ngx.var.connection .. "/" .. ngx.var.connection_requests
end

local function begin_flight(id)
    local flight = {}
    flights[id] = flight
    if ngx.is_subrequest then
        local key = family()
        subrequests[key] = subrequests[key] or {}
        table.insert(subrequests[key], id)
    end
    return flight
end

local function end_flight(id)
    local flight = flights[id]
    flights[id] = nil
    if flight and flight.server then
        count(flight.server.count_key, -1)
    end
    return flight
end

local function end_subrequests()
    local key = family()
    for _place, id in ipairs(subrequests[key] or {}) do
        end_flight(id)
    end
    subrequests[key] = nil
end

local function leave_out(server)
    dict:set(server.out_key, true, OUT_SECONDS)
end

-- A flight that is asked for a server again. Returns whether the last one failed: it was not an internal redirect to another location.
local function ended_try(flight)
    local failure = balancer.get_last_failure()
    if flight.server then
        count(flight.server.count_key, -1)
    end
    if failure then
        flight.tried = flight.tried or {}
        flight.tried[flight.server.name] = true
        if failure == "failed" then
            leave_out(flight.server)
        end
    else
        flight.tried = nil
    end
    flight.server = nil
    return failure ~= nil
end

-- Counts a server as asked, if `view` is in force. The version is looked at after the count: whoever has changed it sees the count, or
-- is seen. Returns the server, if there is one, and whether the view is in force.
local function take(view, tried)
    local server = choose(view, tried)
    if server then
        count(server.count_key, 1)
    end
    if dict:get(view.version_key) == view.version then
        return server, true
    elseif server then
        count(server.count_key, -1)
    end
    return nil, false
end

-- As long as versions come faster than they can be read.
local function take_anew(name, tried)
    local view = refreshed(name)
    while view do
        local server, in_force = take(view, tried)
        if in_force then
            return server, view
        end
        view = refreshed(name)
    end
end

function M.balance(name)
    if not me then
        begin_to_count()
    end
    local id = id_of_this()
    local flight = flights[id]
    local is_retry = flight and ended_try(flight)
    flight = flight or begin_flight(id)
    local view = views[name]
    local server, in_force
    if view then
        server, in_force = take(view, flight.tried)
    end
    if not in_force then
        server, view = take_anew(name, flight.tried)
    end
    if not server then
        if not view then
            ngx.log(ngx.ERR, "steady_rollout: load() was not told of upstream ", name)
        end
        return ngx.exit(NGX_BUSY)
    end
    flight.server = server
    if not is_retry and #view.ready > 1 then
        balancer.set_more_tries(#view.ready - 1)
    end
    local set, why = balancer.set_current_peer(server.address, server.port)
    if not set then
        ngx.log(ngx.ERR, "steady_rollout: server ", server.name, " of upstream ", name, ": ", why)
        return ngx.exit(NGX_BUSY)
    end
end

function M.log()
    local flight = end_flight(id_of_this())
    if next(subrequests) then
        end_subrequests()
    end
    -- The last try is not followed by another one that would tell of its failure.
    if flight and flight.server and (ngx.status == 502 or ngx.status == 504) and (ngx.var.upstream_header_time or ""):find("%-$") then
        leave_out(flight.server)
    end
end


-- api(): what the driver talks to

local function answer(status, text)
    ngx.status = status
    ngx.header.content_type = "application/json"
    ngx.header.content_length = #text + 1
    ngx.print(text, "\n")
end

local function deny(status, text, ...)
    return answer(status, format('{"error":%s}', quoted(format(text, ...))))
end

-- {upstream: {server: {pid: requests}}}. Counts of workers that are gone, which only one that was killed leaves, are removed.
local function in_flight()
    local found, gone = {}, {}
    for _place, key in ipairs(dict:get_keys(0)) do
        local pid, upstream, server = key:match("^count/(%d+)/([^/]+)/(.*)$")
        if pid then
            if gone[pid] == nil then
                gone[pid] = C.kill(tonumber(pid), 0) ~= 0 and ffi.errno() == ESRCH
            end
            local number = dict:get(key)
            if gone[pid] then
                dict:delete(key)
            elseif number and number > 0 then
                found[upstream] = found[upstream] or {}
                found[upstream][server] = found[upstream][server] or {}
                table.insert(found[upstream][server], format('"%s":%d', pid, number))
            end
        end
    end
    return found
end

local function upstream_text(name, flights)
    local state = current(name)
    local lines = {}
    for place, one in ipairs(state.servers) do
        local pids = flights[name] and flights[name][one.name] or {}
        lines[place] = format(
            '{"name":%s,"address":%s,"port":%s,"weight":%d,"base_weight":%d,"state":"%s","in_flight":{%s}}',
            quoted(one.name), quoted(one.address), one.port or "null", one.weight, one.base_weight, one.state, table.concat(pids, ",")
        )
    end
    return format('{"version":%.0f,"servers":[%s]}', state.version, table.concat(lines, ","))
end

local function whole_text()
    local flights, parts = in_flight(), {}
    for place, name in ipairs(conf.names) do
        parts[place] = quoted(name) .. ":" .. upstream_text(name, flights)
    end
    local version = ngx.config.nginx_version
    return format(
        '{"format":%d,"process":{"nginx":"%d.%d.%d","worker":%d,"master":%d},"upstreams":{%s}}',
        FORMAT, floor(version / 1e6), floor(version / 1000) % 1000, version % 1000, ngx.worker.pid(), C.getppid(), table.concat(parts, ",")
    )
end

-- {upstream: why a restart would not bring its weights and states back}, "" where it does.
local function kept_text()
    local parts = {}
    for place, name in ipairs(conf.names) do
        local state, why, is_absent = kept(name)
        if C.access(conf.dir, W_OK_X_OK) ~= 0 then
            why = problem(conf.dir .. " cannot be written by the workers of nginx")
        elseif state or is_absent then
            local now, back = current(name).servers, overlaid(name, state)
            why = nil
            for number, one in ipairs(now) do
                local other = back[number]
                if not other or other.name ~= one.name or other.weight ~= one.weight or other.state ~= one.state then
                    why = path_of(name) .. (state and " does not hold what is in force" or " is not there")
                end
            end
        end
        parts[place] = quoted(name) .. ":" .. quoted(why or "")
    end
    return format('{"format":%d,"kept":{%s}}', FORMAT, table.concat(parts, ","))
end

local function body()
    ngx.req.read_body()
    local path = ngx.req.get_body_file()
    return path and content(path) or ngx.req.get_body_data() or ""
end

-- Returns the state that a change makes of another one, or nil, a status and why.
local function changed(name, asked)
    local state = current(name)
    if asked.version ~= state.version then
        return nil, 409, format("version %.0f of upstream %s is not the one in force, which is %.0f", asked.version, name, state.version)
    end
    local servers = {}
    for _place, one in ipairs(state.servers) do
        servers[one.name] = one
    end
    for _place, one in ipairs(asked.servers) do
        local server = servers[one.name]
        if not server then
            return nil, 422, format("upstream %s has no server %s", name, one.name)
        end
        server.weight, server.state = one.weight, one.state
    end
    local heavy = too_heavy(state.servers)
    if heavy then
        return nil, 422, heavy
    end
    state.version = next_version(name)
    return state
end

local function put(name)
    local asked, broken = decoded(body())
    if type(asked) ~= "table" then
        return deny(400, "the body is no JSON object: %s", broken or type(asked))
    elseif type(asked.version) ~= "number" then
        return deny(422, "version is no number; give the one that was read")
    end
    local why = flaw(asked.servers)
    if why then
        return deny(422, "%s", why)
    end
    local refused
    local text, failed = alone(pause_worker, function(folder)
        local state, status, wrong = changed(name, asked)
        if not state then
            refused = {status, wrong}
            return true
        end
        wrong = enact(name, state, function()
            return replaced(path_of(name), encoded(state), folder)
        end)
        return not wrong and upstream_text(name, in_flight()) or nil, wrong
    end)
    if refused then
        return deny(refused[1], "%s", refused[2])
    elseif not text then
        return deny(500, "the change cannot be kept, so it was not made: %s", failed)
    end
    return answer(200, format('{"format":%d,"upstreams":{%s:%s}}', FORMAT, quoted(name), text))
end

local function read_only(text)
    local method = ngx.req.get_method()
    if method ~= "GET" and method ~= "HEAD" then
        ngx.header.allow = "GET, HEAD"
        return deny(405, "only GET is answered here")
    end
    return answer(200, text())
end

function M.api()
    local uri = ngx.var.uri
    if uri == "/" then
        return read_only(whole_text)
    elseif uri == "/kept" then
        return read_only(kept_text)
    end
    local name = uri:match("^/upstreams/([^/]+)$")
    if not name then
        return deny(404, "there is only / and /kept to read, and /upstreams/NAME to change")
    elseif not conf.upstreams[name] then
        return deny(404, "there is no upstream %s", name)
    elseif ngx.req.get_method() ~= "PUT" then
        ngx.header.allow = "PUT"
        return deny(405, "only PUT is answered here")
    end
    return put(name)
end

return M

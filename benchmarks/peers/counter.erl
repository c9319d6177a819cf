%% Erlang: a node with a process for each counter, and this node, which asks them by gen_server:call.
%%
%% `main` reads requests from its standard input (see lines.py) and starts the other node itself,
%% which ends with it; benchmarks/README.md has the command. Neither node needs epmd. One process asks for each ask in flight, as Erlang has it.
-module(counter).
-behaviour(gen_server).
-export([main/0, start_counters/1, init/1, handle_call/3, handle_cast/2]).

-define(AGENTS, 1000).
-define(MOST, 10000).

init([]) -> {ok, 0}.

handle_call({add, Amount}, _From, Value) -> {reply, Value + Amount, Value + Amount}.

handle_cast(_, Value) -> {noreply, Value}.

%% On the other node: as many counters, which outlive the call.
start_counters(Count) ->
    list_to_tuple([element(2, {ok, _} = gen_server:start(?MODULE, [], [])) || _ <- lists:seq(1, Count)]).

main() ->
    {ok, [[Port]]} = init:get_argument(erl_epmd_port),
    {ok, [[Interface]]} = init:get_argument(interface),
    {ok, Peer, Node} = peer:start_link(#{
        name => "served",
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        args => ["-start_epmd", "false", "-erl_epmd_port", Port,
                 "-kernel", "inet_dist_use_interface", Interface,
                 "-setcookie", atom_to_list(erlang:get_cookie()),
                 "-pa", filename:dirname(code:which(?MODULE))]
    }),
    true = net_kernel:connect_node(Node),
    Agents = erpc:call(Node, ?MODULE, start_counters, [?MOST]),
    io:format("ready erlang/otp=~s~n", [erlang:system_info(otp_release)]),
    serve(Agents),
    peer:stop(Peer),
    halt(0).

serve(Agents) ->
    case io:get_line("") of
        eof -> ok;
        Line ->
            io:format("~s~n", [answer(string:lexemes(Line, " \n"), Agents)]),
            serve(Agents)
    end.

answer(["load", Width, Seconds], Agents) ->
    {Elapsed, Times} = load(Agents, list_to_integer(Width), number(Seconds)),
    Sorted = list_to_tuple(lists:sort(Times)),
    io_lib:format("load ~.6f ~.6f ~.6f ~.6f",
        [tuple_size(Sorted) / Elapsed | [percentile(P, Sorted) || P <- [50, 95, 99]]]);
answer(["fan", Count], Agents) ->
    Begun = now_s(),
    Me = self(),
    [spawn_link(fun() -> ask(Agents, N), Me ! done end) || N <- lists:seq(1, list_to_integer(Count))],
    [receive done -> ok end || _ <- lists:seq(1, list_to_integer(Count))],
    io_lib:format("fan ~.6f", [now_s() - Begun]).

%% Seconds that it took, and the milliseconds of each ask.
load(Agents, Width, Seconds) ->
    Me = self(),
    Begun = now_s(),
    End = Begun + Seconds,
    [spawn_link(fun() -> Me ! {times, work(Agents, N, Width, End, [])} end) || N <- lists:seq(1, Width)],
    Times = [receive {times, Some} -> Some end || _ <- lists:seq(1, Width)],
    {now_s() - Begun, lists:append(Times)}.

work(Agents, Number, Width, End, Times) ->
    Begun = now_s(),
    if
        Begun >= End -> Times;
        true ->
            ask(Agents, Number rem ?AGENTS + 1),
            work(Agents, Number + Width, Width, End, [(now_s() - Begun) * 1000 | Times])
    end.

ask(Agents, Number) -> gen_server:call(element(Number, Agents), {add, 1}, infinity).

percentile(Percent, Sorted) ->
    element(max(1, ceil(Percent * tuple_size(Sorted) / 100)), Sorted).

now_s() -> erlang:monotonic_time(nanosecond) / 1.0e9.

number(Text) ->
    case string:to_float(Text) of
        {error, _} -> list_to_integer(Text) * 1.0;
        {Number, _} -> Number
    end.

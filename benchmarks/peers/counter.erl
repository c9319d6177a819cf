%% Erlang: a node with a process for each counter, and this node, which asks them by gen_server:call.
%%
%% `main` reads requests from its standard input (see lines.py) and starts the other node itself,
%% which ends with it; benchmarks/peers/starting.py has the command. Neither node needs epmd. One process
%% asks for each ask in flight, as Erlang has it.
%%
%% The other node has as many schedulers as this one. On two cores one each is fastest, by half more
%% than two each, which take the cores from each other.
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
        args => ["+S", integer_to_list(erlang:system_info(schedulers)),
                 "-start_epmd", "false", "-erl_epmd_port", Port,
                 "-kernel", "inet_dist_use_interface", Interface,
                 "-setcookie", atom_to_list(erlang:get_cookie()),
                 "-pa", filename:dirname(code:which(?MODULE))]
    }),
    true = net_kernel:connect_node(Node),
    persistent_term:put(?MODULE, erpc:call(Node, ?MODULE, start_counters, [?MOST])),
    io:format("ready erlang/otp=~s~n", [erlang:system_info(otp_release)]),
    serve(),
    peer:stop(Peer),
    halt(0).

serve() ->
    case io:get_line("") of
        eof -> ok;
        Line ->
            io:format("~s~n", [answer(string:lexemes(Line, " \n"))]),
            serve()
    end.

answer(["load", Width, Seconds]) ->
    {Elapsed, Times} = load(list_to_integer(Width), number(Seconds)),
    Sorted = list_to_tuple(lists:sort(Times)),
    io_lib:format("load ~.6f ~.6f ~.6f ~.6f",
        [tuple_size(Sorted) / Elapsed | [percentile(P, Sorted) || P <- [50, 95, 99]]]);
answer(["fan", Count]) ->
    Begun = now_native(),
    Me = self(),
    [spawn_link(fun() -> ask(N), Me ! done end) || N <- lists:seq(1, list_to_integer(Count))],
    [receive done -> ok end || _ <- lists:seq(1, list_to_integer(Count))],
    io_lib:format("fan ~.6f", [(now_native() - Begun) / native(1)]).

%% Seconds that it took, and the milliseconds of each ask.
load(Width, Seconds) ->
    Me = self(),
    Begun = now_native(),
    End = Begun + round(Seconds * native(1)),
    [spawn_link(fun() -> Me ! {times, work(N, Width, End, now_native(), [])} end)
     || N <- lists:seq(1, Width)],
    Times = lists:append([receive {times, Some} -> Some end || _ <- lists:seq(1, Width)]),
    Elapsed = (now_native() - Begun) / native(1),
    {Elapsed, [Time * 1000 / native(1) || Time <- Times]}.

%% Asks one counter after the other until the end; one reading of the clock for each ask.
work(_, _, End, Begun, Times) when Begun >= End -> Times;
work(Number, Width, End, Begun, Times) ->
    ask(Number rem ?AGENTS + 1),
    Ended = now_native(),
    work(Number + Width, Width, End, Ended, [Ended - Begun | Times]).

%% The counters are no argument: they would be copied to the heap of each process that asks, half a
%% megabyte and again at its collections, and that would be all there is to measure.
ask(Number) ->
    gen_server:call(element(Number, persistent_term:get(?MODULE)), {add, 1}, infinity).

percentile(Percent, Sorted) ->
    element(max(1, ceil(Percent * tuple_size(Sorted) / 100)), Sorted).

now_native() -> erlang:monotonic_time().

native(Seconds) -> erlang:convert_time_unit(Seconds, second, native).

number(Text) ->
    case string:to_float(Text) of
        {error, _} -> list_to_integer(Text) * 1.0;
        {Number, _} -> Number
    end.

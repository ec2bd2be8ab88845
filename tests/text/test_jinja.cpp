// The Jinja interpreter: what it refuses, where it stops, and what its texts know about where they come from.
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include "support/jinja_json.hpp"

namespace jinja = blockattn::jinja;
using blockattn_test::render;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::string repeated(const std::string& part, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += part;
  return all;
}

/// The text with its origins: digits before what comes from 1 to 9, '.' before what the template wrote.
std::string origins(const std::string& source) {
  const jinja::template_source parsed(source);
  jinja::budget budget{jinja::limits{}};
  jinja::heap heap(budget);
  const auto text = [&](std::string_view bytes, std::uint32_t origin) { return heap.make(bytes, {origin, 0}); };
  jinja::dict d;
  d.set(heap.make("k"), text("vé\"", 3));
  const jinja::variables given = {
      {"a", text("Hello World", 1)}, {"b", text(" x ", 2)}, {"d", heap.make(std::move(d))}, {"f", text("{}-%s", 4)}};
  const jinja::text result = parsed.render(heap, given, blockattn_test::golden_date());
  std::string shown;
  std::size_t begin = 0;
  for (const jinja::run& r : result.runs()) {
    shown += r.from.origin == 0 ? '.' : static_cast<char>('0' + r.from.origin);
    shown += result.bytes().substr(begin, r.end - begin);
    begin = r.end;
  }
  return shown;
}

}  // namespace

TEST_CASE("every operation on texts keeps where they come from", "[text][jinja]") {
  CHECK(origins("<{{ a }}>") == ".<1Hello World.>");
  CHECK(origins("{{ a + '!' ~ b }}") == "1Hello World.!2 x ");
  CHECK(origins("{{ a[1:4] }}{{ a[0] }}{{ a[::-1] }}{{ b|trim }}{{ b.strip() }}|{{ a.lstrip('He') }}") ==
        "1ellHdlroW olleH2xx.|1llo World");
  CHECK(origins("{{ a.replace('o', b) }}|{{ b|replace(' ', '<eos>') }}") == "1Hell2 x 1 W2 x 1rld.|<eos>2x.<eos>");
  CHECK(origins("{{ [a, b]|join('-') }}{{ '-'.join([b, 'z']) }}") == "1Hello World.-2 x  x .-z");
  CHECK(origins("{{ a.split()[1] }}{{ a|upper }}{{ a|title }}{{ a|capitalize }}{{ b.center(7, '*') }}") ==
        "1WorldHELLO WORLDHello WorldHello world.**2 x .**");
  CHECK(origins("{{ d|tojson }}{{ d }}") == ".{\"k\": \"3vé\\\".\"}{'k': '3vé\".'}");
  CHECK(origins("{{ '%s|%5s' % (a, b) }}{{ '[{}]'.format(b) }}{{ f % 1 }}{{ f.format('y') }}") ==
        "1Hello World.|  2 x .[2 x .]4{}-.1y4-%s");
  CHECK(origins("{% set c %}<{{ a }}>{% endset %}{{ c * 2 }}{% macro m(x) %}({{ x }}){% endmacro %}{{ m(b) }}{% filter "
                "upper %}q{{ b }}{% endfilter %}") == ".<1Hello World.><1Hello World.>(2 x .)Q2 X ");
  CHECK(origins("{{ a|e }}{{ b|indent(2, true) }}{{ a|list|first }}{% for c in b %}{{ c }}{% endfor %}{{ a|reverse "
                "}}{{ a|length }}{{ a|truncate(6, true, '~', 0) }}") ==
        "1Hello World.  2 x 1H2 x 1dlroW olleH.111Hello.~");
  CHECK(origins("{{ a|map('upper')|join }}{{ [b, a]|sort|first }}{{ {'x': a}.x }}{{ {'x': a}|dictsort }}{{ "
                "a.partition(' ')[2] }}") == "1HELLO WORLD2 x 1Hello World.[('x', '1Hello World.')]1World");
}

TEST_CASE("errors say where they are", "[text][jinja][hostile]") {
  CHECK_THROWS_WITH(render("a\n  {{ 1 + }}", {}), StartsWith("[jinja] 2:10 "));
  CHECK_THROWS_WITH(render("{% if x %}\n{% endfor %}", {}), Contains("2:4") && Contains("endfor"));
  CHECK_THROWS_WITH(render("{{ x.y.z }}", {{"x", {{"q", 1}}}}), Contains("has no attribute 'y'"));
  CHECK_THROWS_WITH(
      render("{{ x|frobnicate }}", {}),
      Contains("1:6") && Contains("no filter named 'frobnicate'; supported: abs, attr,") && Contains("wordcount"));
  CHECK_THROWS_WITH(render("{{ x is frobnicated }}", {}), Contains("no test named 'frobnicated'; supported: boolean"));
  CHECK_THROWS_WITH(render("{% include 'x' %}", {}), Contains("unknown tag 'include'"));
  CHECK_THROWS_WITH(render("\n{{ raise_exception('No ' ~ 1) }}", {}),
                    StartsWith("[jinja] 2:") && Contains("the template refuses: No 1"));
  CHECK_THROWS_AS(render("{{ raise_exception('x') }}", {}), blockattn::template_refusal);
  CHECK_THROWS_AS(render("{{ 1 + none }}", {}), blockattn::template_error);
  CHECK_THROWS_WITH(render("{{ 9223372036854775807 + 1 }}", {}), Contains("64 bits"));
  CHECK_THROWS_WITH(render("{% set x = [1] %}{{ x.append(2) }}", {}), Contains("has no attribute 'append'"));
  CHECK_THROWS_AS(render("{{ ''.__class__.__mro__ }}", {}), blockattn::template_error);
  CHECK_THROWS_AS(render("{% set c = cycler(1) %}{% set c.items = 5 %}{{ c.next() }}", {}), blockattn::template_error);
}

TEST_CASE("a template that doesn't end is stopped", "[text][jinja][hostile]") {
  const auto stops = [](const std::string& source, const std::string& why) {
    INFO(source.substr(0, 200));
    CHECK_THROWS_WITH(render(source, {}), StartsWith("[jinja] ") && Contains(why));
  };
  stops("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper");
  stops("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", "nested deeper");
  stops("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested deeper");
  stops("{{ range(10 ** 18) }}", "more than 100000 items");
  stops(
      "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor "
      "%}",
      "steps");
  stops("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "limits::string");
  stops("{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "limits::items");
  stops("{{ 'x' * 10 ** 12 }}", "limits::string");
  stops("{{ [0] * 10 ** 12 }}", "limits::items");
  stops("{{ 'x'.center(10 ** 12) }}", "limits::string");
  stops("{{ 'x'.zfill(10 ** 15) }}", "limits::string");
  stops("{{ 'x'|indent(10 ** 12) }}", "limits::string");
  stops("{{ '%99999999999d' % 1 }}", "width");
  stops("{{ '{:>99999999999}'.format(1) }}", "width");
  stops("{{ [1]|batch(10 ** 12, 0)|list }}", "limits::items");
  stops("{{ [1]|slice(10 ** 12)|list }}", "limits::items");
  stops("{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}", "limits::");
  stops("{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "nested deeper");
  stops("{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "nested deeper");
  stops("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "nested deeper");
  stops("{{ 'a' * 1000000 }}{{ ('a' * 1000000).replace('a', 'b' * 1000) }}", "limits::string");
  stops("{{ {'a': 1}|tojson(indent=10 ** 12) }}", "indent");
}

TEST_CASE("nesting of the text itself is bounded", "[text][jinja][hostile]") {
  const auto refused = [](const std::string& source) {
    CHECK_THROWS_WITH(jinja::template_source(source), StartsWith("[jinja] "));
  };
  for (const int n : {250, 20'000}) {
    refused("{{ " + repeated("(", n) + "1" + repeated(")", n) + " }}");
    refused("{{ " + repeated("[", n) + repeated("]", n) + " }}");
    refused("{{ " + repeated("-", n) + "1 }}");
    refused("{{ " + repeated("not ", n) + "1 }}");
    refused("{{ 1" + repeated(" + 1", n) + " }}");
    refused("{{ 1" + repeated("|abs", n) + " }}");
    refused("{{ x" + repeated(".x", n) + " }}");
    refused("{{ 1" + repeated(" if 1", n) + " }}");
    refused("{{ 1" + repeated(" if 1 else 1", n) + " }}");
    refused(repeated("{% if 1 %}", n) + repeated("{% endif %}", n));
    refused("{% for " + repeated("(", n) + "x" + repeated(")", n) + " in [1] %}{% endfor %}");
  }
  refused(std::string(2'000'000, 'x'));
  CHECK(render("{{ 1" + repeated(" ~ 1", 5000) + " }}", {}).size() == 5001);  // not nested
}

TEST_CASE("limits are options", "[text][jinja]") {
  jinja::limits most;
  most.output = 10;
  CHECK_THROWS_WITH(render("12345678901", {}, most), Contains("longer than 10 bytes"));
  most = {};
  most.steps = 100;
  CHECK_THROWS_WITH(render("{% for i in range(50) %}{{ i }}{% endfor %}", {}, most), Contains("more than 100 steps"));
  most = {};
  most.memory = 1000;
  CHECK_THROWS_WITH(render("{{ 'x' * 2000 }}", {}, most), Contains("more than 1000 bytes"));
  most = {};
  most.depth = 20;
  CHECK_THROWS_WITH(render("{{ " + repeated("(-", 30) + "1" + repeated(")", 30) + " }}", {}, most),
                    Contains("nested deeper than 20"));
}

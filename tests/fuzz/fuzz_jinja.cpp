// Any text as a template over a conversation: it is rendered or refused with a message, within its limits; every mark
// covers bytes that are there.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "blockattn/text/jinja/template.hpp"

namespace {

namespace jinja = blockattn::jinja;

jinja::value message(jinja::heap& heap, std::string_view role, std::string_view content, std::uint32_t unit) {
  jinja::dict d;
  d.unit = unit;
  d.set(heap.make("role"), heap.make(role));
  d.set(heap.make("content"), heap.make(content, {unit, 0}));
  return heap.make(std::move(d));
}

void render(std::string_view source) {
  jinja::limits most;
  most.steps = 20'000;
  most.memory = std::size_t{4} << 20;
  most.string = most.output = std::size_t{1} << 16;
  most.items = 10'000;
  most.depth = 200;
  jinja::budget budget(most);
  jinja::heap heap(budget);
  const jinja::value messages = heap.make(
      {message(heap, "system", "Be <|im_end|> kind.", 1), message(heap, "user", " H\xC3\xA9llo, {x} %s! ", 2)});
  const jinja::text text = jinja::template_source(source).render(
      heap, {{"messages", messages}, {"add_generation_prompt", true}, {"bos_token", heap.make("<s>")}}, {});
  if (!text.runs().empty() && text.runs().back().end != text.size()) std::abort();
  if (!blockattn::is_valid_utf8(text.bytes())) std::abort();
}

}  // namespace

/// Starts from pieces of the language, which random bytes would hardly become.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  static constexpr std::string_view pieces[] = {"{% for m in messages %}",
                                                "{% endfor %}",
                                                "{{ m.content }}",
                                                "{% if m['role'] == 'user' %}",
                                                "{% else %}",
                                                "{% endif %}",
                                                "{% set x = m.content %}",
                                                "{% macro f(a, b=1) %}",
                                                "{% endmacro %}",
                                                "{{ f(1) }}",
                                                "{{ x|",
                                                "trim",
                                                "tojson(indent=2)",
                                                "replace('l', x)",
                                                "|join(', ')",
                                                "|map('upper')",
                                                "|selectattr('role', 'eq', 'user')",
                                                "|list",
                                                "|sort",
                                                ".split(' ')",
                                                "[1:-1]",
                                                "[::-1]",
                                                "'%s %5d' % (x, 2)",
                                                "'{:>5}'.format(x)",
                                                "namespace(a=1)",
                                                "{% set ns.a = ns.a + 1 %}",
                                                "{%- ",
                                                " -%}",
                                                "{{",
                                                "}}",
                                                "loop.index",
                                                "range(9)",
                                                " ~ ",
                                                " is defined",
                                                " in ",
                                                "not ",
                                                "(",
                                                ")",
                                                "[",
                                                "]",
                                                "{",
                                                "}",
                                                "\n",
                                                "{# c #}",
                                                "{% raw %}",
                                                "{% endraw %}",
                                                "|int",
                                                "|float",
                                                "|round",
                                                " // 2",
                                                " ** 3",
                                                "{% call f() %}",
                                                "{% endcall %}"};
  if (seed % 3 != 0) return LLVMFuzzerMutate(data, size, most);
  const std::string_view piece = pieces[seed / 3 % std::size(pieces)];
  if (size + piece.size() > most) return LLVMFuzzerMutate(data, size, most);
  const std::size_t at = size == 0 ? 0 : seed / 199 % (size + 1);
  std::string text(reinterpret_cast<const char*>(data), size);
  text.insert(at, piece);
  text.copy(reinterpret_cast<char*>(data), text.size());
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    render(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const blockattn::error&) {
  }
  return 0;
}

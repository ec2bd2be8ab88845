// Readers of tokenizers and chat templates: see core/parts.hpp.
#define BLOCKATTN_COMPILING_TEXT
#include "blockattn/text/jinja/template.hpp"
#include "blockattn/text/tokenizer_gguf.hpp"
#include "blockattn/text/tokenizer_json.hpp"

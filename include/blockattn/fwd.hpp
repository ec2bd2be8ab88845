// Forward declarations, for headers of applications that only name these types.
#pragma once

namespace blockattn::inline v0 {

struct error;
class block_cache;
class checkpoint;
class gguf_file;
class kv_block;
class model;
class session;
class tokenizer;

}  // namespace blockattn::inline v0

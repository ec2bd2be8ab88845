// Everything that an application needs.
#pragma once

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/generate/attention_plan.hpp"
#include "blockattn/generate/sampler.hpp"
#include "blockattn/generate/session.hpp"
#include "blockattn/model/model.hpp"
#include "blockattn/text/block_miner.hpp"
#include "blockattn/text/chat_template.hpp"
#include "blockattn/text/segment_code.hpp"
#include "blockattn/text/segment_json.hpp"
#include "blockattn/text/segment_text.hpp"
#include "blockattn/text/segmenter.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "blockattn/version.hpp"

// Parts of the library that may be compiled once for a program of many translation units, instead of in each of them: the kernels of every level, the families, the
// readers of tokenizers and chat templates.
//
// By default they are inline, as everything is. With BLOCKATTN_COMPILED defined in every translation unit, BLOCKATTN_PART functions are only declared; source files of
// the program bring them, each with one of BLOCKATTN_COMPILING_KERNELS, _MODELS and _TEXT defined too, by including the headers (this project's: cmake/parts_*.cpp).
#pragma once

#if !defined(BLOCKATTN_COMPILED)
#define BLOCKATTN_PART inline
#else
#define BLOCKATTN_PART
#endif

#if !defined(BLOCKATTN_COMPILED) || defined(BLOCKATTN_COMPILING_KERNELS)
#define BLOCKATTN_HAS_KERNELS 1
#else
#define BLOCKATTN_HAS_KERNELS 0
#endif
#if !defined(BLOCKATTN_COMPILED) || defined(BLOCKATTN_COMPILING_MODELS)
#define BLOCKATTN_HAS_MODELS 1
#else
#define BLOCKATTN_HAS_MODELS 0
#endif
#if !defined(BLOCKATTN_COMPILED) || defined(BLOCKATTN_COMPILING_TEXT)
#define BLOCKATTN_HAS_TEXT 1
#else
#define BLOCKATTN_HAS_TEXT 0
#endif

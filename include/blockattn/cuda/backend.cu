// The GPU engine (engine.hpp). The one file that nvcc compiles.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <mutex>
#include <tuple>
#include <utility>

#include "blockattn/cuda/device/attention_groups.cuh"
#include "blockattn/cuda/device/products.cuh"
#include "blockattn/cuda/device/sampling.cuh"
#include "blockattn/cuda/device/token.cuh"
#include "blockattn/cuda/device/weights.cuh"
#include "blockattn/cuda/engine.hpp"

namespace blockattn::inline v0::cuda {

namespace detail {

/// Throws cuda_error if an operation failed.
inline void check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // a failed launch must not be reported twice
  throw cuda_error(cat("[cuda] ", operation, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
}

inline void check(cublasStatus_t status, const char* operation) {
  if (status != CUBLAS_STATUS_SUCCESS) throw cuda_error(cat("[cuda] ", operation, ": ", cublasGetStatusString(status)));
}

inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

/// A stream of a device, its memory pool and cuBLAS. Lives as long as anything allocated from it.
class device_context {
 public:
  device_context(int device, index_t limit) : device_(device), limit_(limit) {
    check(cudaSetDevice(device), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreateWithFlags(&before_copy_, cudaEventDisableTiming), "cudaEventCreate");
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
    std::uint64_t keep = ~std::uint64_t{0};
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    check(cublasCreate(&blas_), "cublasCreate");
    check(cublasSetStream(blas_, stream_), "cublasSetStream");
  }
  ~device_context() {
    (void)cudaStreamSynchronize(stream_);
    (void)cublasDestroy(blas_);
    (void)cudaEventDestroy(before_copy_);
    (void)cudaStreamDestroy(copies_);
    (void)cudaStreamDestroy(stream_);
  }
  device_context(const device_context&) = delete;
  device_context& operator=(const device_context&) = delete;

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] cublasHandle_t blas() const { return blas_; }
  void use() const { check(cudaSetDevice(device_), "cudaSetDevice"); }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  /// `what` and `advice` go into the message if there isn't enough memory.
  [[nodiscard]] std::byte* allocate(index_t bytes, const char* what, const char* advice) const {
    use();
    void* p = nullptr;
    const bool over = limit_ > 0 && used_ + bytes > limit_;
    const cudaError_t status = over ? cudaErrorMemoryAllocation : cudaMallocAsync(&p, static_cast<std::size_t>(std::max<index_t>((bytes + 15) / 16 * 16, 256)), stream_);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      std::size_t free = 0, total = 0;
      (void)cudaMemGetInfo(&free, &total);
      const std::string left = over ? cat(limit_ - used_, " of this model's ", limit_) : cat(free + unused(), " of ", total);
      throw cuda_memory_error(cat("[cuda] out of memory: ", what, " needs ", bytes, " bytes, ", left, " are free. ", advice), static_cast<std::size_t>(bytes));
    }
    check(status, "cudaMallocAsync");
    used_ += bytes;
    return static_cast<std::byte*>(p);
  }
  /// `bytes` as they were asked for.
  void free(std::byte* p, index_t bytes) const noexcept {
    (void)cudaFreeAsync(p, stream_);
    used_ -= bytes;
  }

  /// How often a buffer has been moved.
  [[nodiscard]] index_t moves() const { return moves_; }
  void count_move() { ++moves_; }

  /// Bytes that an allocation may have.
  [[nodiscard]] index_t available() const {
    use();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    const auto there = static_cast<index_t>(free + unused());
    return limit_ > 0 ? std::min(limit_ - used_, there) : there;
  }

  /// A copy between host and device, after all work that was given to the device before and beside what comes later; waits for it.
  void copy_beside(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t bytes, index_t count, cudaMemcpyKind kind) {
    const std::lock_guard lock(copying_);
    check(cudaEventRecord(before_copy_, stream_), "cudaEventRecord");
    check(cudaStreamWaitEvent(copies_, before_copy_), "cudaStreamWaitEvent");
    const auto size = static_cast<std::size_t>(bytes);
    check(count == 1 ? cudaMemcpyAsync(to, from, size, kind, copies_)
                     : cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_step), from, static_cast<std::size_t>(from_step), size, static_cast<std::size_t>(count), kind, copies_),
          "copy of keys and values");
    check(cudaStreamSynchronize(copies_), "copy of keys and values");
  }

 private:
  /// Bytes that the pool holds and nobody uses.
  [[nodiscard]] std::size_t unused() const {
    cudaMemPool_t pool;
    std::uint64_t reserved = 0, used = 0;
    if (cudaDeviceGetDefaultMemPool(&pool, device_) != cudaSuccess || cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved) != cudaSuccess ||
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used) != cudaSuccess)
      return 0;
    return static_cast<std::size_t>(reserved - used);
  }

  int device_;
  index_t limit_;
  mutable std::atomic<index_t> used_{0};
  index_t moves_ = 0;
  std::mutex copying_;
  cudaStream_t copies_ = nullptr;
  cudaEvent_t before_copy_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
};

/// Device memory of one owner. Grows by need; contents aren't kept then.
class device_buffer {
 public:
  device_buffer() = default;
  device_buffer(const device_buffer&) = delete;
  device_buffer& operator=(const device_buffer&) = delete;
  ~device_buffer() { release(); }

  void need(const std::shared_ptr<device_context>& context, index_t bytes, const char* what, const char* advice) {
    if (bytes <= bytes_) return;
    release();
    context->count_move();
    data_ = context->allocate(bytes, what, advice);
    context_ = context;
    bytes_ = bytes;
  }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  [[nodiscard]] index_t bytes() const { return bytes_; }

 private:
  void release() {
    if (data_ != nullptr) context_->free(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  std::shared_ptr<device_context> context_;
  std::byte* data_ = nullptr;
  index_t bytes_ = 0;
};

/// A matrix [rows, columns] on the device.
struct device_matrix {
  dtype type = dtype::bf16;
  const std::uint8_t* data = nullptr;
  index_t rows = 0, columns = 0;
};

/// Matrices over the same inputs, whose outputs stand one after the other.
struct stacked_matrices {
  std::vector<device_matrix> parts;
  index_t rows = 0, columns = 0;
};

struct device_layer {
  stacked_matrices query_key_value, output, gate_up, down;
  const float *query_bias = nullptr, *key_bias = nullptr, *value_bias = nullptr, *query_norm = nullptr, *key_norm = nullptr;
  const float *attention_norm = nullptr, *attention_post_norm = nullptr, *feed_forward_norm = nullptr, *feed_forward_post_norm = nullptr;
  index_t rope = -1, window = 0;
};

/// Layers whose matrices stay in pinned host memory, and two buffers on the device that they pass through in order, again and again. While one layer is computed the next one lies in
/// the other buffer or is on its way there, in a stream of copies alone; as a layer is done, the one after the next takes its place. So the first two are there, or coming, when a call begins.
class layer_stream {
 public:
  layer_stream() = default;
  layer_stream(const layer_stream&) = delete;
  layer_stream& operator=(const layer_stream&) = delete;
  ~layer_stream() {
    if (copies_ == nullptr) return;
    (void)cudaStreamSynchronize(copies_);
    for (const slot& s : slots_) (void)cudaEventDestroy(s.copied), (void)cudaEventDestroy(s.read);
    (void)cudaStreamDestroy(copies_);
  }

  /// Pinned memory for one more layer.
  std::byte* add(index_t bytes) {
    void* p = nullptr;
    const cudaError_t status = cudaMallocHost(&p, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw cuda_error(cat("[cuda] out of host memory: a layer's weights that stay there need ", bytes, " bytes, pinned, after ", host_bytes_, " of other layers. ",
                           "Keep more layers on the device (gpu_layers), or take a smaller quantisation of the model."));
    }
    check(status, "cudaMallocHost");
    layers_.push_back({std::shared_ptr<std::byte>(static_cast<std::byte*>(p), [](std::byte* q) { (void)cudaFreeHost(q); }), bytes});
    host_bytes_ += bytes;
    return static_cast<std::byte*>(p);
  }

  /// Once all layers are filled: makes the buffers, and sends the first two on their way.
  void start(const std::shared_ptr<device_context>& context, const char* advice) {
    if (layers_.empty()) return;
    index_t largest = 0;
    for (const layer& l : layers_) largest = std::max(largest, l.bytes);
    check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreate");
    for (slot& s : slots_) {
      s.memory.need(context, largest, "the model's weights", advice);
      check(cudaEventCreateWithFlags(&s.copied, cudaEventDisableTiming), "cudaEventCreate");
      check(cudaEventCreateWithFlags(&s.read, cudaEventDisableTiming), "cudaEventCreate");
    }
    context->wait();
    copy(0, 0);
    if (count() > 1) copy(1, 1);
  }

  /// The buffer that layer `n` is in, for all that `compute` gets from here on.
  std::size_t acquire(index_t n, cudaStream_t compute) {
    int at = find(n);
    if (at < 0) {  // a call ended in an error
      at = slots_[0].layer == (n + 1) % count() ? 1 : 0;
      check(cudaEventRecord(slots_[at].read, compute), "cudaEventRecord");
      copy(at, n);
    }
    check(cudaStreamWaitEvent(compute, slots_[at].copied), "cudaStreamWaitEvent");
    return static_cast<std::size_t>(at);
  }

  /// After all work on layer `n`: its buffer takes the one after the next.
  void release(index_t n, cudaStream_t compute) {
    const int at = find(n);
    check(cudaEventRecord(slots_[at].read, compute), "cudaEventRecord");
    if (const index_t next = (n + 2) % count(); find(next) < 0) copy(at, next);
  }

  [[nodiscard]] index_t count() const { return static_cast<index_t>(layers_.size()); }
  [[nodiscard]] const std::byte* host(index_t n) const { return layers_[static_cast<std::size_t>(n)].data.get(); }
  [[nodiscard]] const std::byte* buffer(std::size_t at) const { return slots_[at].memory.as<std::byte>(); }
  [[nodiscard]] index_t host_bytes() const { return host_bytes_; }
  [[nodiscard]] index_t device_bytes() const { return slots_[0].memory.bytes() + slots_[1].memory.bytes(); }

 private:
  struct layer {
    std::shared_ptr<std::byte> data;
    index_t bytes;
  };
  struct slot {
    device_buffer memory;
    index_t layer = -1;
    cudaEvent_t copied = nullptr, read = nullptr;  ///< its layer is there; nothing reads it any more
  };

  [[nodiscard]] int find(index_t n) const { return slots_[0].layer == n ? 0 : (slots_[1].layer == n ? 1 : -1); }

  void copy(int at, index_t n) {
    slot& s = slots_[at];
    const layer& l = layers_[static_cast<std::size_t>(n)];
    s.layer = -1;
    check(cudaStreamWaitEvent(copies_, s.read), "cudaStreamWaitEvent");
    check(cudaMemcpyAsync(s.memory.as<std::byte>(), l.data.get(), static_cast<std::size_t>(l.bytes), cudaMemcpyHostToDevice, copies_), "copy of a layer's weights");
    check(cudaEventRecord(s.copied, copies_), "cudaEventRecord");
    s.layer = n;
  }

  std::vector<layer> layers_;
  std::array<slot, 2> slots_;
  cudaStream_t copies_ = nullptr;
  index_t host_bytes_ = 0;
};

/// A kernel with its arguments, to be launched once or more often.
class kernel_call {
 public:
  virtual ~kernel_call() = default;
  /// Whether both launch the same kernel in the same way with the same arguments.
  [[nodiscard]] virtual bool equals(const kernel_call& other) const = 0;
  virtual void launch(cudaStream_t stream) const = 0;
};

/// In clusters of (1, `cluster`, 1) thread blocks. `beside`: prepared while the kernel before it runs (see wait_for_inputs), on devices of 9.0 on.
template <class... P>
class call_of final : public kernel_call {
 public:
  struct shape {
    dim3 grid;
    unsigned cluster, threads;
    index_t memory;
    bool hopper, beside;
    bool operator==(const shape& o) const {
      return grid.x == o.grid.x && grid.y == o.grid.y && grid.z == o.grid.z && cluster == o.cluster && threads == o.threads && memory == o.memory && hopper == o.hopper && beside == o.beside;
    }
  };
  call_of(const char* name, void (*kernel)(P...), const shape& how, P... arguments) : name_(name), kernel_(kernel), how_(how), arguments_(arguments...) {}

  [[nodiscard]] bool equals(const kernel_call& other) const override {
    const auto* o = dynamic_cast<const call_of*>(&other);
    return o != nullptr && kernel_ == o->kernel_ && how_ == o->how_ && arguments_ == o->arguments_;
  }
  void launch(cudaStream_t stream) const override {
    cudaLaunchConfig_t config = {};
    config.gridDim = how_.grid, config.blockDim = dim3(how_.threads), config.dynamicSmemBytes = static_cast<std::size_t>(how_.memory), config.stream = stream;
    std::array<cudaLaunchAttribute, 2> attributes = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = how_.beside ? 1 : 0;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {1, how_.cluster, 1};
    config.attrs = attributes.data();
    config.numAttrs = !how_.hopper ? 0 : (how_.cluster > 1 ? 2 : 1);
    check(std::apply([&](const P&... arguments) { return cudaLaunchKernelEx(&config, kernel_, P(arguments)...); }, arguments_), name_);
  }

 private:
  const char* name_;
  void (*kernel_)(P...);
  shape how_;
  std::tuple<P...> arguments_;
};

using call_list = std::vector<std::unique_ptr<const kernel_call>>;

[[nodiscard]] inline bool equal_calls(const call_list& a, const call_list& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return x->equals(*y); });
}

/// Kernel calls as one launch. They are captured in a stream of its own: into the engine's stream, other threads may put allocations at any time.
class call_graph {
 public:
  call_graph() = default;
  call_graph(const call_graph&) = delete;
  call_graph& operator=(const call_graph&) = delete;
  ~call_graph() {
    clear();
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

  [[nodiscard]] bool there() const { return graph_ != nullptr; }
  void clear() {
    if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
    graph_ = nullptr;
  }
  /// False where the driver or the device can't do it.
  [[nodiscard]] bool make(const call_list& calls) {
    clear();
    cudaGraph_t captured = nullptr;
    bool good = (stream_ != nullptr || cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess) && cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (good) {
      try {
        for (const auto& c : calls) c->launch(stream_);
      } catch (const cuda_error&) {
        good = false;
      }
      good = cudaStreamEndCapture(stream_, &captured) == cudaSuccess && good && cudaGraphInstantiate(&graph_, captured, 0) == cudaSuccess;
      if (captured != nullptr) (void)cudaGraphDestroy(captured);
    }
    if (!good) graph_ = nullptr;
    (void)cudaGetLastError();
    return good;
  }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

/// Fills bfloat16 weights with numbers of a small normal-like spread, from a counter.
__global__ void fill_synthetic(bf16* out, std::int64_t count, float spread, std::uint64_t seed) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) {
    std::uint64_t x = (static_cast<std::uint64_t>(at) + seed) * 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    float sum = -2;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>((x >> (16 * i)) & 0xffff) / 65536.0F;
    out[at] = __float2bfloat16(sum * spread * 1.7320508F);
  }
}

[[nodiscard]] inline unsigned blocks_for(index_t count, index_t threads = 256) {
  return static_cast<unsigned>(std::clamp<index_t>((count + threads - 1) / threads, 1, 65535));
}

}  // namespace detail

using namespace detail;

namespace {

inline constexpr index_t few_tokens = 8;       ///< up to so many, weights are streamed against each token
inline constexpr index_t chunk_tokens = 4096;  ///< that go through all layers together
inline constexpr const char* less_context = "Lower the cache's budget or the context, or take a smaller quantisation of the model.";

}  // namespace

struct engine::state {
  state(const network_facts& given, const engine_options& wanted) : options(wanted), net(given), context(std::make_shared<device_context>(wanted.device, wanted.memory_limit)) {
    for (const device_facts& d : find_devices().devices)
      if (d.number == wanted.device) facts = d;
    check_options();
    count_of_layers = static_cast<index_t>(net.layers.size());
    resident = std::min(options.layers.value_or(count_of_layers), count_of_layers);
    load_advice = advice_at_load();
    upload();
    net.layers.clear();  // the host's pointers are not needed any more
  }

  // What follows is one engine's work in order: upload; then forward = request tables, embedding, layers, norm.

  void check_options() const {
    if (net.width % 8 != 0 || net.feed_forward % 8 != 0) throw argument_error(cat("[cuda] widths ", net.width, " and ", net.feed_forward, "; supported: multiples of 8"));
    if (net.head_dim % 16 != 0 || net.head_dim > 256) throw argument_error(cat("[cuda] heads of size ", net.head_dim, "; supported: multiples of 16 up to 256"));
    if (options.layers && *options.layers < 0) throw argument_error(cat("[cuda] ", *options.layers, " layers on the device; allowed: 0 and more, more than the model has: all"));
    (void)checked(layout());
  }

  [[nodiscard]] kv_layout layout() const { return {static_cast<index_t>(net.layers.size()), net.kv_heads, net.head_dim, options.kv}; }

  [[nodiscard]] index_t stored_bytes(const weight_view& w) const { return (net.synthetic ? 2 * w.columns : row_bytes(w.type, w.columns)) * w.rows; }

  /// Bytes of matrices one after the other, with what kernels may read beyond them; the next ones begin aligned.
  [[nodiscard]] index_t room_for(std::initializer_list<weight_view> views) const {
    index_t bytes = 64;
    for (const weight_view& w : views) bytes += stored_bytes(w);
    return (bytes + 255) / 256 * 256;
  }
  [[nodiscard]] index_t layer_bytes(const layer_facts& f) const { return room_for({f.query, f.key, f.value}) + room_for({f.output}) + room_for({f.gate, f.up}) + room_for({f.down}); }
  [[nodiscard]] bool has_head() const { return net.head.data != net.embedding.data || net.synthetic; }

  /// What to do where memory runs out at load. Names a number of layers if that many would leave room for a prompt of one chunk with its keys and values.
  [[nodiscard]] std::string advice_at_load() const {
    const index_t heads = (net.heads + 2 * net.kv_heads) * net.head_dim;
    index_t rest = room_for({net.embedding}) + (has_head() ? room_for({net.head}) : 0) + chunk_tokens * ((3 * net.width + 2 * heads + 3 * net.feed_forward) * 4 + layout().token_bytes());
    index_t unpacked = 0, streamed = 0, here = 0;  // scratch; the largest of the layers that would be streamed
    for (const layer_facts& f : net.layers) {
      rest += (4 * net.width + 2 * heads) * 4;
      here += layer_bytes(f);
      unpacked = std::max({unpacked, 2 * net.feed_forward * net.width * 4, heads * net.width * 4});
    }
    const index_t available = context->available() - rest - unpacked;
    index_t layers = count_of_layers;
    while (layers > 0 && here + 2 * streamed > available) {
      --layers;
      const index_t bytes = layer_bytes(net.layers[static_cast<std::size_t>(layers)]);
      here -= bytes, streamed = std::max(streamed, bytes);
    }
    const bool fits = here + 2 * streamed <= available && layers < resident;
    return cat("Take a smaller quantisation of the model, ", fits ? cat("keep ", layers, " of its ", count_of_layers, " layers on the device (gpu_layers, --gpu-layers), ") : "", "or compute on the CPU.");
  }

  std::byte* place(index_t bytes) {
    std::byte* p = context->allocate(bytes, "the model's weights", load_advice.c_str());
    weights.push_back(std::shared_ptr<std::byte>(p, [c = context, bytes](std::byte* q) { c->free(q, bytes); }));
    weight_bytes += bytes;
    return p;
  }

  const float* upload_vector(const float* from, index_t count) {
    if (from == nullptr && !net.synthetic) return nullptr;
    std::byte* p = place(count * 4);
    const std::vector<float> ones(from == nullptr ? static_cast<std::size_t>(count) : 0, 1.0F);
    check(cudaMemcpyAsync(p, from != nullptr ? from : ones.data(), static_cast<std::size_t>(count) * 4, cudaMemcpyHostToDevice, context->stream()), "upload of a vector");
    context->wait();
    return reinterpret_cast<const float*>(p);
  }

  /// `here`: `to` is device memory, else pinned host memory.
  device_matrix upload_part(const weight_view& w, std::byte* to, bool here) {
    const auto bytes = static_cast<std::size_t>(stored_bytes(w));
    if (net.synthetic) {
      if (!here) scratch.need(context, stored_bytes(w), "the model's weights", load_advice.c_str());
      bf16* made = here ? reinterpret_cast<bf16*>(to) : scratch.as<bf16>();
      fill_synthetic<<<blocks_for(w.rows * w.columns), 256, 0, context->stream()>>>(made, w.rows * w.columns, 0.02F, seed += 0x100000000ULL);
      check_launch("fill_synthetic");
      if (!here) check(cudaMemcpyAsync(to, made, bytes, cudaMemcpyDeviceToHost, context->stream()), "download of weights");
      return {dtype::bf16, reinterpret_cast<const std::uint8_t*>(to), w.rows, w.columns};
    }
    if (here) check(cudaMemcpyAsync(to, w.data, bytes, cudaMemcpyHostToDevice, context->stream()), "upload of weights");
    else std::memcpy(to, w.data, bytes);
    return {w.type, reinterpret_cast<const std::uint8_t*>(to), w.rows, w.columns};
  }

  /// One after the other, from `to` on; those of one type become one matrix.
  stacked_matrices upload_matrices(std::initializer_list<weight_view> views, std::byte* to, bool here = true) {
    stacked_matrices result;
    bool alike = true;
    for (const weight_view& w : views) {
      alike = alike && w.type == views.begin()->type;
      result.rows += w.rows;
      result.columns = w.columns;
    }
    for (const weight_view& w : views) {
      result.parts.push_back(upload_part(w, to, here));
      to += stored_bytes(w);
    }
    if (alike) {
      result.parts.resize(1);
      result.parts[0].rows = result.rows;
    }
    return result;
  }

  void upload() {
    const index_t query = net.heads * net.head_dim, key = net.kv_heads * net.head_dim;
    for (const layer_facts& f : net.layers) {
      device_layer l;
      const bool here = static_cast<index_t>(layers.size()) < resident;
      std::byte* to = here ? nullptr : streamed.add(layer_bytes(f));
      const auto matrices = [&](std::initializer_list<weight_view> views) {
        if (here) return upload_matrices(views, place(room_for(views)));
        return upload_matrices(views, std::exchange(to, to + room_for(views)), false);
      };
      l.query_key_value = matrices({f.query, f.key, f.value});
      l.output = matrices({f.output});
      l.gate_up = matrices({f.gate, f.up});
      l.down = matrices({f.down});
      const auto vector = [&](const float* from, index_t count) { return from == nullptr ? nullptr : upload_vector(from, count); };
      l.query_bias = vector(f.query_bias, query), l.key_bias = vector(f.key_bias, key), l.value_bias = vector(f.value_bias, key);
      l.query_norm = vector(f.query_norm, net.norm_whole ? query : net.head_dim), l.key_norm = vector(f.key_norm, net.norm_whole ? key : net.head_dim);
      l.attention_norm = upload_vector(f.attention_norm, net.width), l.feed_forward_norm = upload_vector(f.feed_forward_norm, net.width);
      l.attention_post_norm = vector(f.attention_post_norm, net.width), l.feed_forward_post_norm = vector(f.feed_forward_post_norm, net.width);
      l.rope = f.rope, l.window = f.window;
      layers.push_back(std::move(l));
    }
    norm = upload_vector(net.norm, net.width);
    embedding = upload_matrices({net.embedding}, place(room_for({net.embedding})));
    head = has_head() ? upload_matrices({net.head}, place(room_for({net.head}))) : embedding;
    for (const rope_facts& r : net.ropes) {
      std::byte* p = place(static_cast<index_t>(r.frequency.size()) * 8);
      check(cudaMemcpyAsync(p, r.frequency.data(), r.frequency.size() * 8, cudaMemcpyHostToDevice, context->stream()), "upload of frequencies");
      frequencies.push_back(reinterpret_cast<const double*>(p));
    }
    context->wait();
    streamed.start(context, load_advice.c_str());
    weight_bytes += streamed.device_bytes();
    for (index_t n = resident; n < count_of_layers; ++n)
      for (std::size_t at : {0, 1}) in_buffer[at].push_back(moved(layers[static_cast<std::size_t>(n)], streamed.host(n - resident), streamed.buffer(at)));
  }

  /// The layer with its matrices as far from `to` as they are from `from`.
  static device_layer moved(device_layer l, const std::byte* from, const std::byte* to) {
    for (stacked_matrices* stacked : {&l.query_key_value, &l.output, &l.gate_up, &l.down})
      for (device_matrix& part : stacked->parts) part.data = reinterpret_cast<const std::uint8_t*>(to) + (part.data - reinterpret_cast<const std::uint8_t*>(from));
    return l;
  }

  /// Layer n with its weights on the device, until done_with.
  const device_layer& acquire(index_t n) {
    if (n < resident) return layers[static_cast<std::size_t>(n)];
    const std::size_t at = streamed.acquire(n - resident, context->stream());
    after_copy = true;
    return in_buffer[at][static_cast<std::size_t>(n - resident)];
  }
  void done_with(index_t n) {
    if (n >= resident) streamed.release(n - resident, context->stream());
  }

  /// Launches a kernel so that it is prepared while the ones before it run (see wait_for_inputs).
  template <class... P, class... A>
  void launch(const char* name, void (*kernel)(P...), dim3 grid, unsigned threads, index_t memory, const A&... arguments) {
    launch_clusters(name, kernel, grid, 1, threads, memory, arguments...);
  }

  /// The same in clusters of (1, `cluster`, 1) thread blocks; more than one from 9.0 on.
  template <class... P, class... A>
  void launch_clusters(const char* name, void (*kernel)(P...), dim3 grid, unsigned cluster, unsigned threads, index_t memory, const A&... arguments) {
    const call_of<P...> call(name, kernel, {grid, cluster, threads, memory, facts.capability >= 90, !std::exchange(after_copy, false)}, static_cast<P>(arguments)...);
    if (collecting) calls.push_back(std::make_unique<const call_of<P...>>(call));
    else call.launch(context->stream());
  }

  // ---- products

  template <class In>
  void stream_product(const device_matrix& w, const In* x, index_t tokens, float* y, index_t stride, bool add) {
    const dim3 grid(static_cast<unsigned>((w.rows + 7) / 8));
    const index_t bytes = row_bytes(w.type, w.columns);
    with_dtype(w.type, [&]<dtype Type>() {
      if (tokens == 1)
        launch("multiply_few", multiply_few<Type, In, float, 1>, grid, 256, 0, w.data, bytes, static_cast<int>(w.columns), static_cast<int>(w.rows), x, 1, y, stride, add);
      else
        launch("multiply_few", multiply_few<Type, In, float, few_tokens>, grid, 256, 0, w.data, bytes, static_cast<int>(w.columns), static_cast<int>(w.rows), x, static_cast<int>(tokens), y, stride, add);
    });
  }

  /// The matrices as numbers of type T: where they lie, or unpacked into scratch.
  template <class T>
  const T* unpacked(const stacked_matrices& w) {
    constexpr dtype own = std::is_same_v<T, float> ? dtype::f32 : dtype::bf16;
    if (w.parts.size() == 1 && w.parts[0].type == own) return reinterpret_cast<const T*>(w.parts[0].data);
    scratch.need(context, w.rows * w.columns * static_cast<index_t>(sizeof(T)), "unpacked weights", less_context);
    T* to = scratch.as<T>();
    for (const device_matrix& part : w.parts) {
      with_dtype(part.type, [&]<dtype Type>() {
        launch("unpack_weights", unpack_weights<Type, T>, dim3(blocks_for(part.rows * part.columns)), 256, 0, part.data, row_bytes(part.type, part.columns), part.columns, part.rows * part.columns, to);
      });
      to += part.rows * part.columns;
    }
    return scratch.as<T>();
  }

  /// Whether Hopper's kernel for some tokens takes the product.
  [[nodiscard]] bool takes_some(const stacked_matrices& w, index_t tokens) const {
    return facts.capability == 90 && tokens > few_tokens && tokens <= product_tokens && w.parts.size() == 1 && w.parts[0].type == dtype::bf16 && w.columns % product_columns == 0 && w.rows % 8 == 0;
  }

  /// `norm_after` (with add): `narrow` gets y as the product after that RMSNorm wants it, up to a factor; `scaled`: x was left there so.
  template <product_end End>
  void multiply_by_some(const stacked_matrices& w, const bf16* x, index_t tokens, void* y, const float* norm_after = nullptr, bool scaled = false) {
    static const cudaError_t raised = cudaFuncSetAttribute(multiply_some<End>, cudaFuncAttributeMaxDynamicSharedMemorySize, product_memory);
    check(raised, "shared memory of multiply_some");
    const bool gate = End == product_end::gate;
    const index_t width = gate ? w.rows / 2 : w.rows, each = gate ? 64 : product_rows, tiles = (width + each - 1) / each;
    const index_t splits = tiles * 2 > facts.multiprocessors ? 1 : std::clamp<index_t>(w.columns / product_columns / 4, 1, 4);
    product_arguments a;
    a.weights = reinterpret_cast<const bf16*>(w.parts[0].data), a.x = x, a.y = y, a.gelu = net.gelu;
    a.rows = static_cast<int>(w.rows), a.columns = static_cast<int>(w.columns), a.tokens = static_cast<int>(tokens), a.stride = width;
    squares.need(context, (net.width + product_rows - 1) / product_rows * product_tokens * 4, "a prompt's intermediate values", less_context);
    a.norm = norm_after, a.normed = narrow.as<bf16>(), a.squares = squares.as<float>();
    if (scaled) a.x_squares = squares.as<float>(), a.x_tiles = static_cast<int>((net.width + product_rows - 1) / product_rows), a.epsilon = net.norm_epsilon;
    launch_clusters("multiply_some", multiply_some<End>, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits)), static_cast<unsigned>(splits), product_threads, product_memory, a);
  }

  /// Whether a layer's products do its norms and activations beside.
  [[nodiscard]] bool takes_norms(const device_layer& l, index_t tokens) const {
    return takes_some(l.query_key_value, tokens) && takes_some(l.output, tokens) && takes_some(l.gate_up, tokens) && takes_some(l.down, tokens) && l.attention_norm != nullptr &&
           l.feed_forward_norm != nullptr && l.attention_post_norm == nullptr && l.feed_forward_post_norm == nullptr;
  }

  /// y [tokens, rows] (+)= x [tokens, columns] · Wᵀ.
  template <class In, class Out>
  void multiply(const stacked_matrices& w, const In* x, index_t tokens, Out* y, bool add) {
    if constexpr (std::is_same_v<Out, float>) {
      if (tokens <= few_tokens && w.columns % 8 == 0) {
        for (const device_matrix& part : w.parts) {
          stream_product(part, x, tokens, y, w.rows, add);
          y += part.rows;
        }
        return;
      }
    }
    if constexpr (std::is_same_v<In, bf16> && std::is_same_v<Out, float>) {
      if (takes_some(w, tokens)) return add ? multiply_by_some<product_end::add>(w, x, tokens, y) : multiply_by_some<product_end::store>(w, x, tokens, y);
    }
    if (collecting) throw cuda_error("[cuda] a product by cuBLAS in a step of one token");  // its launches can't be collected; such steps take the streamed product above
    const In* weights_of = unpacked<In>(w);
    const float one = 1, other = add ? 1.0F : 0.0F;
    constexpr cudaDataType_t in = std::is_same_v<In, float> ? CUDA_R_32F : CUDA_R_16BF, out = std::is_same_v<Out, float> ? CUDA_R_32F : CUDA_R_16BF;
    const auto n = static_cast<int>(w.rows), k = static_cast<int>(w.columns);
    check(cublasGemmEx(context->blas(), CUBLAS_OP_T, CUBLAS_OP_N, n, static_cast<int>(tokens), k, &one, weights_of, in, k, x, in, k, &other, y, out, n,
                       std::is_same_v<In, float> ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  }

  // ---- the tables of a request

  /// Segments that one attention call goes over.
  struct segment_group {
    const device_segment* segments = nullptr;
    index_t segment_count = 0, keys = 0;
    /// The keys in pieces: for all tokens, and for the last ones alone in the last layer.
    struct shares {
      const work_item* items = nullptr;
      const std::int32_t* begins = nullptr;
      index_t splits = 1;
    };
    shares all, last;
  };

  struct tables {
    const request_place* place = nullptr;
    const token_id* ids = nullptr;
    index_t tokens = 0;
    segment_group others, scaled;  ///< if none are scaled, all are `others`
    segment_scaling scaling;
    std::vector<const float*> cosine, sine;                ///< of the tokens, one a RoPE
    std::vector<const float*> segment_cosine, segment_sine;  ///< of the segments' rotations, one a RoPE
  };

  /// Cuts the segments' keys into pieces of about the same size, one list for each split; cuts lie at multiples of tile_keys.
  static void split_work(std::span<const segment> segments, index_t splits, std::vector<work_item>& items, std::vector<std::int32_t>& begins) {
    index_t total = 0;
    for (const segment& s : segments) total += s.tokens;
    const index_t share = std::max<index_t>((total + splits - 1) / splits, 1);
    begins.assign(1, 0);
    index_t left = share;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      for (index_t at = 0; at < segments[i].tokens;) {
        index_t take = segments[i].tokens - at;
        if (take > left + tile_keys / 2) take = std::max<index_t>((left + tile_keys / 2) / tile_keys * tile_keys, 0);
        if (take > 0) items.push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(at), static_cast<std::int32_t>(at + take), static_cast<std::int32_t>(segments[i].position)});
        at += take;
        left -= take;
        if (left <= tile_keys / 2 && static_cast<index_t>(begins.size()) < splits) {
          begins.push_back(static_cast<std::int32_t>(items.size()));
          left += share;
        }
      }
    }
    while (static_cast<index_t>(begins.size()) <= splits) begins.push_back(static_cast<std::int32_t>(items.size()));
  }

  /// The same for Hopper's kernel, whose tiles go across segments: cuts lie wherever `grain` keys are full.
  static void split_tiles(std::span<const segment> segments, index_t splits, index_t grain, std::vector<work_item>& items, std::vector<std::int32_t>& begins) {
    index_t total = 0;
    for (const segment& s : segments) total += s.tokens;
    const index_t share = (total + splits * grain - 1) / (splits * grain) * grain;
    begins.assign(1, 0);
    index_t left = share;
    for (std::size_t i = 0; i < segments.size(); ++i)
      for (index_t at = 0; at < segments[i].tokens;) {
        const index_t take = std::min(segments[i].tokens - at, left);
        items.push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(at), static_cast<std::int32_t>(at + take), static_cast<std::int32_t>(segments[i].position)});
        at += take, left -= take;
        if (left == 0) begins.push_back(static_cast<std::int32_t>(items.size())), left = share;
      }
    while (static_cast<index_t>(begins.size()) <= splits) begins.push_back(static_cast<std::int32_t>(items.size()));
  }

  [[nodiscard]] index_t tile_rows(index_t rows) const { return rows <= 16 ? 16 : (rows <= 64 || net.head_dim > 128 ? 64 : 128); }

  /// Whether Hopper's kernel is to do so many rows of the query: the device has its instructions, and there is enough to do.
  [[nodiscard]] bool takes_groups(index_t rows, index_t keys) const {
    const auto packed = [](dtype type) { return type == dtype::q8_0 || type == dtype::q4_0; };
    const bool types = options.kv == kv_types(dtype::bf16) || (packed(options.kv.keys) && packed(options.kv.values));
    const bool whole = std::all_of(net.ropes.begin(), net.ropes.end(), [&](const rope_facts& r) { return r.channels == net.head_dim; });
    return facts.capability == 90 && options.kind == arithmetic::fast && (rows > 64 || keys >= 512) && types && whole && (net.head_dim == 64 || net.head_dim == 128);
  }
  /// Units of 64 rows that each of its two groups owns.
  [[nodiscard]] static index_t group_units(index_t rows, index_t keys) { return rows <= 128 || (rows <= 256 && keys <= 4096) ? 1 : 2; }

  /// Whether keys and values that are copied as they lie, in pieces of 16 bytes, begin at multiples of that: beside quantised ones, not for every number of KV heads.
  [[nodiscard]] bool pieces_are_aligned() const {
    const auto copied = [](dtype type) { return type == dtype::bf16 || type == dtype::f16; };
    if (!copied(options.kv.keys) && !copied(options.kv.values)) return true;
    const index_t keys = net.kv_heads * row_bytes(options.kv.keys, net.head_dim), values = net.kv_heads * row_bytes(options.kv.values, net.head_dim);
    return keys % 16 == 0 && (keys + values) % 16 == 0;
  }

  /// Which kernel does so many rows of the query against so many keys. Tensor cores take half precision, bfloat16 and what is unpacked to it.
  enum class attention_kernel { groups, tiles, half_tiles, plain };
  [[nodiscard]] attention_kernel kernel_for(index_t rows, index_t keys) const {
    if (takes_groups(rows, keys)) return attention_kernel::groups;
    const bool size = net.head_dim == 64 || net.head_dim == 128 || net.head_dim == 256;
    if (options.kind != arithmetic::fast || facts.capability < 80 || !size || !pieces_are_aligned()) return attention_kernel::plain;
    const auto takes = [&](dtype other) { return (options.kv.keys == dtype::bf16 || options.kv.keys == other) && (options.kv.values == dtype::bf16 || options.kv.values == other); };
    if (takes(dtype::q8_0) || takes(dtype::q4_0)) return attention_kernel::tiles;
    return options.kv == kv_types(dtype::f16) ? attention_kernel::half_tiles : attention_kernel::plain;
  }

  /// How many thread blocks share the keys of a row tile; a matter of sizes alone.
  [[nodiscard]] index_t splits_for(index_t rows, index_t keys) const {
    const attention_kernel kernel = kernel_for(rows, keys);
    if (kernel == attention_kernel::plain) return 1;
    if (kernel == attention_kernel::groups) {  // one block fits on a multiprocessor
      const index_t tile = 128 * group_units(rows, keys), tiles = (rows + tile - 1) / tile * net.kv_heads;
      return std::clamp<index_t>(facts.multiprocessors / tiles, 1, std::clamp<index_t>(keys / 128, 1, 128));
    }
    const index_t tiles = (rows + tile_rows(rows) - 1) / tile_rows(rows) * net.kv_heads;
    const index_t wanted = 2 * facts.multiprocessors / tiles;
    return std::clamp<index_t>(wanted, 1, std::clamp<index_t>(keys / 256, 1, 128));
  }

  void split(std::span<const segment> segments, index_t rows, index_t keys, index_t splits, std::vector<work_item>& items, std::vector<std::int32_t>& begins) const {
    if (!takes_groups(rows, keys)) return split_work(segments, splits, items, begins);
    split_tiles(segments, splits, net.head_dim == 64 ? group_keys<64> : group_keys<128>, items, begins);
  }

  /// Tables begin at multiples of 512, so that one that grows a little leaves the others where they are.
  template <class T>
  T* stage(const std::vector<T>& from, index_t& at) {
    const index_t begin = (at + 511) / 512 * 512;
    at = begin + static_cast<index_t>(from.size() * sizeof(T));
    if (at > static_cast<index_t>(staged.size())) staged.resize(static_cast<std::size_t>(2 * at));
    if (!from.empty()) std::memcpy(staged.data() + begin, from.data(), from.size() * sizeof(T));
    return reinterpret_cast<T*>(begin);  // an offset still: the buffer may move
  }

  /// Cuts and stages the keys of segments that one attention call goes over. What it points to are offsets still, as stage gives them.
  segment_group stage_group(std::span<const segment> segments, index_t tokens, index_t last_rows, index_t& at) {
    segment_group g;
    g.segment_count = static_cast<index_t>(segments.size());
    for (const segment& s : segments) g.keys += s.tokens;
    const auto stage_shares = [&](segment_group::shares& share, index_t rows) {
      std::vector<work_item> items;
      std::vector<std::int32_t> begins;
      share.splits = splits_for(rows, g.keys);
      split(segments, rows, g.keys, share.splits, items, begins);
      share.items = stage(items, at), share.begins = stage(begins, at);
    };
    stage_shares(g.all, tokens * (net.heads / net.kv_heads));
    stage_shares(g.last, last_rows * (net.heads / net.kv_heads));
    return g;
  }

  tables make_tables(std::span<const token_id> ids, index_t position, index_t tail_first, std::span<const segment> segments, std::span<const double> places, index_t last_rows) {
    std::vector<segment> ordered(segments.begin(), segments.end());
    const auto border = std::stable_partition(ordered.begin(), ordered.end(), [](const segment& s) { return s.scaling.plain(); });
    std::vector<device_segment> seen;
    std::vector<double> rotations;
    for (const segment& s : ordered) {
      const bool turned = s.rotation != 0;
      seen.push_back({reinterpret_cast<const std::uint8_t*>(s.base), s.stride, s.first, static_cast<std::int32_t>(s.tokens), static_cast<std::int32_t>(s.position),
                      turned ? static_cast<std::int32_t>(rotations.size()) : -1, 0});
      if (turned) rotations.push_back(s.rotation);
    }
    tables t;
    t.tokens = static_cast<index_t>(ids.size());
    index_t at = 0;
    const auto place_of = reinterpret_cast<index_t>(stage(std::vector<request_place>{{tail_first, static_cast<std::int32_t>(position), 0}}, at));
    const auto id_at = reinterpret_cast<index_t>(stage(std::vector<token_id>(ids.begin(), ids.end()), at));
    const auto segment_at = reinterpret_cast<index_t>(stage(seen, at)), rotation_at = reinterpret_cast<index_t>(stage(rotations, at));
    const auto place_at = reinterpret_cast<index_t>(stage(std::vector<double>(places.begin(), places.end()), at));
    const auto others = static_cast<std::size_t>(border - ordered.begin());
    t.others = stage_group(std::span(ordered).first(others), t.tokens, last_rows, at);
    if (border != ordered.end()) t.scaled = stage_group(std::span(ordered).subspan(others), t.tokens, last_rows, at), t.scaling = border->scaling;
    request.need(context, at, "a request's tables", less_context);
    check(cudaMemcpyAsync(request.as<std::byte>(), staged.data(), static_cast<std::size_t>(at), cudaMemcpyHostToDevice, context->stream()), "upload of a request");
    const auto* base = request.as<std::byte>();
    t.place = reinterpret_cast<const request_place*>(base + place_of);
    t.ids = reinterpret_cast<const token_id*>(base + id_at);
    t.others.segments = reinterpret_cast<const device_segment*>(base + segment_at), t.scaled.segments = t.others.segments + others;
    for (segment_group* g : {&t.others, &t.scaled})
      for (segment_group::shares* share : {&g->all, &g->last}) {
        share->items = reinterpret_cast<const work_item*>(base + reinterpret_cast<index_t>(share->items));
        share->begins = reinterpret_cast<const std::int32_t*>(base + reinterpret_cast<index_t>(share->begins));
      }
    make_angle_tables(static_cast<index_t>(ids.size()), places.empty() ? nullptr : reinterpret_cast<const double*>(base + place_at), reinterpret_cast<const double*>(base + rotation_at),
                      static_cast<index_t>(rotations.size()), t);
    return t;
  }

  void make_angle_tables(index_t tokens, const double* places, const double* rotations, index_t rotation_count, tables& t) {
    index_t floats = 0;
    for (const rope_facts& r : net.ropes) floats += (tokens + rotation_count) * r.channels;
    angles.need(context, floats * 4, "angles", less_context);
    float* to = angles.as<float>();
    for (std::size_t i = 0; i < net.ropes.size(); ++i) {
      const index_t pairs = net.ropes[i].channels / 2;
      const auto make = [&](index_t count, const double* at, double magnitude, std::vector<const float*>& cosine, std::vector<const float*>& sine) {
        cosine.push_back(to), sine.push_back(to + count * pairs);
        if (count > 0)
          launch("make_angles", make_angles, dim3(static_cast<unsigned>((count * pairs + 127) / 128)), 128, 0, frequencies[i], static_cast<int>(pairs), t.place, at, static_cast<int>(count), magnitude, to, to + count * pairs);
        to += 2 * count * pairs;
      };
      make(tokens, places, net.ropes[i].magnitude, t.cosine, t.sine);
      make(rotation_count, rotations, 1.0, t.segment_cosine, t.segment_sine);
    }
  }

  // ---- attention

  attend_arguments attention_arguments(const tables& t, const segment_group& seen, index_t number, const device_layer& l, index_t tokens, index_t skipped) {
    attend_arguments a;
    a.row_stride = (net.heads + 2 * net.kv_heads) * net.head_dim;
    a.queries = projected.as<float>() + skipped * a.row_stride;
    a.out = attended.as<std::byte>();
    a.tokens = static_cast<int>(tokens), a.heads = static_cast<int>(net.heads), a.kv_heads = static_cast<int>(net.kv_heads), a.head_dim = static_cast<int>(net.head_dim);
    a.place = t.place, a.skipped = static_cast<int>(skipped);
    a.scale = net.attention_scale, a.cap = net.attention_soft_cap, a.window = static_cast<int>(l.window);
    if (l.rope >= 0) {
      const auto rope = static_cast<std::size_t>(l.rope);
      a.halves = net.ropes[rope].pairing == rope_pairing::halves;
      a.channels = static_cast<int>(net.ropes[rope].channels);
      a.cosine = t.segment_cosine[rope], a.sine = t.segment_sine[rope];
    }
    a.segments = seen.segments, a.segment_count = static_cast<int>(seen.segment_count);
    a.layer = static_cast<int>(number);
    a.row_bytes[0] = row_bytes(options.kv.keys, net.head_dim), a.row_bytes[1] = row_bytes(options.kv.values, net.head_dim);
    a.kv[0] = options.kv.keys, a.kv[1] = options.kv.values;
    const segment_group::shares& share = tokens == t.tokens ? seen.all : seen.last;
    a.items = share.items, a.split_begin = share.begins, a.splits = static_cast<int>(share.splits);
    return a;
  }

  template <class T, int Dh, int Units, bool Shared>
  void launch_tiles(const attend_arguments& a) {
    constexpr int memory = tile_memory<Dh, Units, Shared>();
    static const cudaError_t raised = cudaFuncSetAttribute(attend_tiles<T, Dh, Units, Shared>, cudaFuncAttributeMaxDynamicSharedMemorySize, memory);
    check(raised, "shared memory of attend_tiles");
    const int rows = a.tokens * (a.heads / a.kv_heads), per_tile = Shared ? 16 : 64 * Units;
    const dim3 grid(static_cast<unsigned>((rows + per_tile - 1) / per_tile), static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.splits));
    launch("attend_tiles", attend_tiles<T, Dh, Units, Shared>, grid, tile_threads, memory, a);
  }

  template <class T, int Dh>
  void launch_tiles_of(const attend_arguments& a) {
    const index_t rows = tile_rows(static_cast<index_t>(a.tokens) * a.heads / a.kv_heads);
    if (rows == 16) return launch_tiles<T, Dh, 1, true>(a);
    if constexpr (Dh <= 128) {
      if (rows == 128) return launch_tiles<T, Dh, 2, false>(a);
    }
    launch_tiles<T, Dh, 1, false>(a);
  }

  template <int Dh, int Units, bool Packed>
  void launch_groups(const attend_arguments& a) {
    constexpr int memory = group_layout<Dh, Units, Packed>::bytes;
    static const cudaError_t raised = cudaFuncSetAttribute(attend_groups<Dh, Units, Packed>, cudaFuncAttributeMaxDynamicSharedMemorySize, memory);
    check(raised, "shared memory of attend_groups");
    const int rows = a.tokens * (a.heads / a.kv_heads);
    const dim3 grid(static_cast<unsigned>((rows + 128 * Units - 1) / (128 * Units)), static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.splits));
    launch("attend_groups", attend_groups<Dh, Units, Packed>, grid, group_threads, memory, a);
  }

  template <int Dh>
  void attend_by_groups(const attend_arguments& a, index_t units) {
    const bool packed = options.kv.keys != dtype::bf16;
    if (units == 1) packed ? launch_groups<Dh, 1, true>(a) : launch_groups<Dh, 1, false>(a);
    else packed ? launch_groups<Dh, 2, true>(a) : launch_groups<Dh, 2, false>(a);
  }

  template <class T>
  void attend_by_tiles(const attend_arguments& a) {
    if (a.head_dim == 64) launch_tiles_of<T, 64>(a);
    else if (a.head_dim == 128) launch_tiles_of<T, 128>(a);
    else launch_tiles_of<T, 256>(a);
  }

  /// One attention call, over so many keys.
  template <class T>
  void attend_to(const attend_arguments& a, index_t keys) {
    if constexpr (std::is_same_v<T, bf16>) {
      const index_t rows = static_cast<index_t>(a.tokens) * a.heads / a.kv_heads;
      switch (kernel_for(rows, keys)) {
        case attention_kernel::groups: return a.head_dim == 128 ? attend_by_groups<128>(a, group_units(rows, keys)) : attend_by_groups<64>(a, group_units(rows, keys));
        case attention_kernel::tiles: return attend_by_tiles<bf16>(a);
        case attention_kernel::half_tiles: return attend_by_tiles<__half>(a);
        case attention_kernel::plain: break;
      }
    }
    const auto memory = static_cast<std::size_t>((plain_warps * (a.head_dim + 2) + a.head_dim) * 4);
    launch("attend_plain", attend_plain<T>, dim3(static_cast<unsigned>(a.tokens), static_cast<unsigned>(a.heads)), 32 * plain_warps, memory, a);
  }

  /// Attention of the last `tokens` tokens. Scaled segments and the others are attended to apart, and joined as segment_scaling says.
  template <class T>
  void attend(const tables& t, index_t number, const device_layer& l, index_t tokens, index_t skipped) {
    const index_t rows = tokens * (net.heads / net.kv_heads);
    const dim3 merge_grid(static_cast<unsigned>((rows * net.kv_heads + merge_rows - 1) / merge_rows));
    const auto floats = [&](const attend_arguments& a) { return (a.splits * net.kv_heads * rows * (net.head_dim + 2) + 63) / 64 * 64; };
    attend_arguments a = attention_arguments(t, t.others, number, l, tokens, skipped);
    if (t.scaled.segment_count == 0) {
      if (a.splits == 1) return attend_to<T>(a, t.others.keys);
      partial.need(context, floats(a) * 4, "attention's parts", less_context);
      a.partial = partial.as<float>();
      attend_to<T>(a, t.others.keys);
      return launch("merge_splits", merge_splits<T>, merge_grid, 32 * merge_rows, 0, a, static_cast<int>(rows));
    }
    attend_arguments scaled = attention_arguments(t, t.scaled, number, l, tokens, skipped);
    scaled.scale /= t.scaling.temperature;
    partial.need(context, (floats(a) + floats(scaled)) * 4, "attention's parts", less_context);
    a.partial = partial.as<float>(), scaled.partial = a.partial + floats(a);
    attend_to<T>(a, t.others.keys);
    attend_to<T>(scaled, t.scaled.keys);
    launch("merge_scaled", merge_scaled<T>, merge_grid, 32 * merge_rows, 0, a, scaled, t.scaling.scale * t.scaling.temperature, static_cast<int>(rows));
  }

  // ---- layers

  template <class T>
  void normed(const float* from, const float* weight, index_t tokens, T* to) {
    if (weight != nullptr)
      launch("rms_norm", rms_norm<T>, dim3(static_cast<unsigned>(tokens)), 256, 0, from, weight, static_cast<int>(net.width), net.norm_epsilon, to);
    else
      launch("convert", convert<T>, dim3(blocks_for(tokens * net.width)), 256, 0, from, tokens * net.width, to);
  }

  /// x += y · Wᵀ, normed first where the family does that.
  template <class T>
  void add_product(const stacked_matrices& w, const T* from, index_t tokens, const float* post_norm, float* to) {
    if (post_norm == nullptr) return multiply<T, float>(w, from, tokens, to, true);
    multiply<T, float>(w, from, tokens, added.as<float>(), false);
    launch("add_normed", add_normed, dim3(static_cast<unsigned>(tokens)), 256, 0, to, added.as<float>(), post_norm, static_cast<int>(net.width), net.norm_epsilon);
  }

  void place(const tables& t, const device_layer& l, index_t number, index_t tokens, const forward_run& run) {
    head_arguments h;
    h.projected = projected.as<float>();
    h.heads = static_cast<int>(net.heads), h.kv_heads = static_cast<int>(net.kv_heads), h.head_dim = static_cast<int>(net.head_dim);
    h.query_bias = l.query_bias, h.key_bias = l.key_bias, h.value_bias = l.value_bias, h.query_norm = l.query_norm, h.key_norm = l.key_norm;
    h.norm_whole = net.norm_whole, h.epsilon = net.norm_epsilon;
    if (l.rope >= 0) {
      const auto rope = static_cast<std::size_t>(l.rope);
      h.cosine = t.cosine[rope], h.sine = t.sine[rope];
      h.channels = static_cast<int>(net.ropes[rope].channels), h.halves = net.ropes[rope].pairing == rope_pairing::halves;
    }
    h.key_row_bytes = row_bytes(options.kv.keys, net.head_dim), h.value_row_bytes = row_bytes(options.kv.values, net.head_dim);
    h.key_type = options.kv.keys, h.value_type = options.kv.values;
    h.stride = run.tail_stride, h.place = t.place;
    const index_t rows = net.kv_heads * run.tail_stride;
    h.keys = reinterpret_cast<std::uint8_t*>(run.tail) + number * rows * (h.key_row_bytes + h.value_row_bytes);
    h.values = h.keys + rows * h.key_row_bytes;
    constexpr unsigned warps = 8;
    const unsigned groups_of_heads = net.norm_whole ? 1 : static_cast<unsigned>((net.heads + 2 * net.kv_heads + warps - 1) / warps);
    launch("place_heads", place_heads, dim3(static_cast<unsigned>(tokens), groups_of_heads), 32 * warps, static_cast<std::size_t>(warps * net.head_dim * 4), h);
  }

  template <class T>
  void feed_forward(const device_layer& l, float* at, index_t tokens) {
    normed<T>(at, l.feed_forward_norm, tokens, narrow.as<T>());
    const index_t count = tokens * net.feed_forward;
    if constexpr (std::is_same_v<T, bf16>) {
      if (takes_some(l.gate_up, tokens)) {
        multiply_by_some<product_end::gate>(l.gate_up, narrow.as<bf16>(), tokens, gated.as<bf16>());
        return add_product<T>(l.down, gated.as<T>(), tokens, l.feed_forward_post_norm, at);
      }
    }
    if (tokens <= few_tokens || std::is_same_v<T, float>) {
      multiply<T, float>(l.gate_up, narrow.as<T>(), tokens, both.as<float>(), false);
      launch("gate_and_up", gate_and_up<float, T>, dim3(blocks_for(count / 8)), 256, 0, both.as<float>(), net.feed_forward, count, net.gelu, gated.as<T>());
    } else {
      multiply<T, T>(l.gate_up, narrow.as<T>(), tokens, both.as<T>(), false);
      launch("gate_and_up", gate_and_up<T, T>, dim3(blocks_for(count / 8)), 256, 0, both.as<T>(), net.feed_forward, count, net.gelu, gated.as<T>());
    }
    add_product<T>(l.down, gated.as<T>(), tokens, l.feed_forward_post_norm, at);
  }

  /// What comes after attention in a layer; `after`: the next one, or nullptr. Returns whether `narrow` holds its inputs up to a factor.
  template <class T>
  bool finish_layer(const device_layer& l, const device_layer* after, float* at, index_t tokens) {
    if constexpr (std::is_same_v<T, bf16>) {
      if (takes_norms(l, tokens)) {
        const bool on = after != nullptr && takes_norms(*after, tokens);
        multiply_by_some<product_end::add>(l.output, attended.as<bf16>(), tokens, at, l.feed_forward_norm);
        multiply_by_some<product_end::gate>(l.gate_up, narrow.as<bf16>(), tokens, gated.as<bf16>(), nullptr, true);
        multiply_by_some<product_end::add>(l.down, gated.as<bf16>(), tokens, at, on ? after->attention_norm : nullptr);
        return on;
      }
    }
    add_product<T>(l.output, attended.as<T>(), tokens, l.attention_post_norm, at);
    feed_forward<T>(l, at, tokens);
    return false;
  }

  template <class T>
  void need_workspace(index_t tokens) {
    constexpr auto size = static_cast<index_t>(sizeof(T));
    const char* what = "a prompt's intermediate values";
    x.need(context, tokens * net.width * 4, what, less_context);
    added.need(context, tokens * net.width * 4, what, less_context);
    narrow.need(context, tokens * net.width * size, what, less_context);
    projected.need(context, tokens * (net.heads + 2 * net.kv_heads) * net.head_dim * 4, what, less_context);
    attended.need(context, tokens * net.heads * net.head_dim * size, what, less_context);
    both.need(context, tokens * 2 * net.feed_forward * (tokens <= few_tokens ? 4 : size), what, less_context);
    gated.need(context, tokens * net.feed_forward * size, what, less_context);
  }

  /// One chunk through all layers; the last `rows` hidden states go to `hidden` on the device.
  template <class T>
  void forward_chunk(std::span<const token_id> ids, index_t position, std::span<const segment> segments, const forward_run& run, index_t tail_first, index_t rows) {
    const auto tokens = static_cast<index_t>(ids.size());
    need_workspace<T>(tokens);
    const tables t = make_tables(ids, position, tail_first, segments, run.rotations.empty() ? run.rotations : run.rotations.subspan(static_cast<std::size_t>(position - run.position), ids.size()), std::max<index_t>(rows, 1));
    const device_matrix& e = embedding.parts[0];
    with_dtype(e.type, [&]<dtype Type>() {
      launch("embed_tokens", embed_tokens<Type>, dim3(static_cast<unsigned>(tokens)), 256, 0, e.data, row_bytes(e.type, e.columns), static_cast<int>(net.width), t.ids, net.embedding_scale, x.as<float>());
    });
    const auto count = static_cast<index_t>(layers.size());
    bool scaled = false;  // `narrow` holds the layer's inputs up to a factor
    for (index_t n = 0; n < count; ++n) {
      const device_layer& l = acquire(n);
      if (scaled) {
        multiply_by_some<product_end::store>(l.query_key_value, narrow.as<bf16>(), tokens, projected.as<float>(), nullptr, true);
      } else {
        normed<T>(x.as<float>(), l.attention_norm, tokens, narrow.as<T>());
        multiply<T, float>(l.query_key_value, narrow.as<T>(), tokens, projected.as<float>(), false);
      }
      place(t, l, n, tokens, run);
      const index_t kept = n + 1 == count ? rows : tokens;  // the last layer's keys are written; only the wanted rows go on
      if (kept > 0) {
        const index_t skipped = tokens - kept;
        attend<T>(t, n, l, kept, skipped);
        scaled = finish_layer<T>(l, n + 1 < count ? &layers[static_cast<std::size_t>(n) + 1] : nullptr, x.as<float>() + skipped * net.width, kept);
      }
      done_with(n);
    }
    if (rows > 0) {
      hidden.need(context, rows * net.width * 4, "hidden states", less_context);
      launch("rms_norm", rms_norm<float>, dim3(static_cast<unsigned>(rows)), 256, 0, x.as<float>() + (tokens - rows) * net.width, norm, static_cast<int>(net.width), net.norm_epsilon, hidden.as<float>());
    }
  }

  /// forward_chunk of one token: its launches are collected, and if they are those of the token before, to the last argument, they are made one. What differs between tokens lies in memory.
  template <class T, class... A>
  void forward_token(const A&... arguments) {
    const call_list before = std::exchange(calls, {});
    index_t moves = 0;
    do {
      moves = context->moves();
      calls.clear();
      collecting = true;
      try {
        forward_chunk<T>(arguments...);
      } catch (...) {
        collecting = false;
        calls.clear();
        graph.clear();
        throw;
      }
      collecting = false;
    } while (moves != context->moves());  // what was collected may point to where a buffer was
    const bool again = equal_calls(before, calls);
    if (!again) graph.clear();
    if (again && !graph.there() && !graph.make(calls)) options.graphs = false;
    if (again && graph.there()) {
      graph.launch(context->stream());
      ++repeated_steps;
    } else {
      for (const auto& c : calls) c->launch(context->stream());
    }
  }

  void forward(const forward_run& run, float* out) {
    const auto total = static_cast<index_t>(run.ids.size());
    const std::lock_guard lock(mutex);
    context->use();
    for (index_t first = 0; first < total; first += chunk_tokens) {
      const index_t tokens = std::min(chunk_tokens, total - first), end = first + tokens;
      const index_t rows = std::clamp<index_t>(end - (total - run.rows), 0, tokens);
      const std::vector<segment> seen = segments_until(run, run.position + end);
      const auto ids = run.ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(tokens));
      const auto compute = [&]<class T>(T) {
        if (total == 1 && options.graphs && resident == count_of_layers) forward_token<T>(ids, run.position, seen, run, run.tail_first, rows);
        else forward_chunk<T>(ids, run.position + first, seen, run, run.tail_first + first, rows);
      };
      options.kind == arithmetic::f32 ? compute(float{}) : compute(bf16{});
      if (rows == 0) continue;
      check(cudaMemcpyAsync(out, hidden.as<float>(), static_cast<std::size_t>(rows * net.width) * 4, cudaMemcpyDeviceToHost, context->stream()), "download of hidden states");
      out += rows * net.width;
      context->wait();
    }
    context->wait();
  }

  /// The segments without what lies at `end` and after: keys of later chunks aren't written yet.
  static std::vector<segment> segments_until(const forward_run& run, index_t end) {
    std::vector<segment> seen;
    for (segment s : run.segments) {
      s.tokens = std::min(s.tokens, end - s.position);
      if (s.tokens > 0) seen.push_back(s);
    }
    return seen;
  }

  /// Logits [rows, V] of hidden states in host memory, on the device.
  void compute_logits(const float* from, index_t rows) {
    hidden.need(context, rows * net.width * 4, "hidden states", less_context);
    logits.need(context, rows * net.vocabulary * 4, "logits", less_context);
    check(cudaMemcpyAsync(hidden.as<float>(), from, static_cast<std::size_t>(rows * net.width) * 4, cudaMemcpyHostToDevice, context->stream()), "upload of hidden states");
    if (rows <= few_tokens || options.kind == arithmetic::f32) {
      multiply<float, float>(head, hidden.as<float>(), rows, logits.as<float>(), false);
    } else {
      narrow.need(context, rows * net.width * 2, "hidden states", less_context);
      launch("convert", convert<bf16>, dim3(blocks_for(rows * net.width)), 256, 0, hidden.as<float>(), rows * net.width, narrow.as<bf16>());
      multiply<bf16, float>(head, narrow.as<bf16>(), rows, logits.as<float>(), false);
    }
    const index_t count = rows * net.vocabulary;
    if (net.logit_soft_cap > 0) launch("cap_values", cap_values, dim3(static_cast<unsigned>((count + 255) / 256)), 256, 0, logits.as<float>(), count, net.logit_soft_cap);
  }

  void project(const float* from, index_t rows, float* out) {
    const std::lock_guard lock(mutex);
    context->use();
    compute_logits(from, rows);
    check(cudaMemcpyAsync(out, logits.as<float>(), static_cast<std::size_t>(rows * net.vocabulary) * 4, cudaMemcpyDeviceToHost, context->stream()), "download of logits");
    context->wait();
  }

  // ---- sampling

  std::vector<token_candidate> highest(const float* from, const candidate_request& request) {
    const std::lock_guard lock(mutex);
    context->use();
    compute_logits(from, 1);
    if (request.penalty != 1 && !request.penalised.empty()) penalise(request.penalised, request.penalty);
    std::vector<std::uint64_t> chosen(static_cast<std::size_t>(request.count));
    const std::uint64_t* from_device = select(request.count);
    check(cudaMemcpyAsync(chosen.data(), from_device, chosen.size() * 8, cudaMemcpyDeviceToHost, context->stream()), "download of candidates");
    context->wait();
    std::sort(chosen.begin(), chosen.end(), std::greater<>());
    std::vector<token_candidate> result;
    for (const std::uint64_t rank : chosen) {
      const auto order = static_cast<std::uint32_t>(rank >> 32);
      if (rank != 0) result.push_back({std::bit_cast<float>((order & 0x80000000U) != 0 ? order ^ 0x80000000U : ~order), static_cast<token_id>(0xffffffffU - static_cast<std::uint32_t>(rank))});
    }
    return result;
  }

  void penalise(std::span<const token_id> ids, float penalty) {
    const auto count = static_cast<index_t>(ids.size());
    request.need(context, count * 4, "a request's tables", less_context);
    check(cudaMemcpyAsync(request.as<token_id>(), ids.data(), ids.size() * 4, cudaMemcpyHostToDevice, context->stream()), "upload of a request");
    launch("penalise_tokens", penalise_tokens, dim3(blocks_for(count)), 256, 0, logits.as<float>(), request.as<token_id>(), static_cast<int>(count), penalty);
  }

  /// Ranks of the `count` highest logits, in rounds: each leaves `count` of a slice.
  const std::uint64_t* select(index_t count) {
    const auto slices = [](index_t of) { return (of + select_slice - 1) / select_slice; };
    index_t total = slices(net.vocabulary) * count;
    ranks.need(context, 2 * total * 8, "candidates", less_context);
    std::uint64_t *to = ranks.as<std::uint64_t>(), *other = to + total;
    launch("select_highest", select_highest<float>, dim3(static_cast<unsigned>(slices(net.vocabulary))), select_threads, 0, logits.as<float>(), static_cast<int>(net.vocabulary), static_cast<int>(count), to);
    while (total > count) {
      launch("select_highest", select_highest<std::uint64_t>, dim3(static_cast<unsigned>(slices(total))), select_threads, 0, to, static_cast<int>(total), static_cast<int>(count), other);
      total = slices(total) * count;
      std::swap(to, other);
    }
    return to;
  }

  engine_options options;
  network_facts net;
  device_facts facts;
  std::shared_ptr<device_context> context;
  std::vector<std::shared_ptr<std::byte>> weights;
  index_t weight_bytes = 0, count_of_layers = 0, resident = 0;  ///< resident: layers whose weights stay on the device, the first ones
  std::string load_advice;
  std::shared_ptr<std::atomic<index_t>> kv_bytes = std::make_shared<std::atomic<index_t>>(0);
  std::uint64_t seed = 1;
  std::vector<device_layer> layers;                     ///< matrices of those that are streamed: in host memory
  layer_stream streamed;
  std::array<std::vector<device_layer>, 2> in_buffer;  ///< the streamed ones, as they lie in either buffer
  bool after_copy = false;                              ///< the next kernel waits for a copy too, so it can't begin before those before it end
  stacked_matrices embedding, head;
  const float* norm = nullptr;
  std::vector<const double*> frequencies;
  std::vector<std::byte> staged;
  call_list calls;  ///< of the last step of one token
  call_graph graph;
  bool collecting = false;  ///< launches go to `calls`
  index_t repeated_steps = 0;
  device_buffer x, added, narrow, projected, attended, both, gated, hidden, logits, scratch, request, angles, partial, ranks, squares;
  std::mutex mutex;
};

engine::engine(const network_facts& network, const engine_options& options) : state_(std::make_unique<state>(network, options)) {}
engine::~engine() = default;

std::shared_ptr<std::byte> engine::allocate(index_t bytes) {
  std::byte* p = state_->context->allocate(bytes, "keys and values", less_context);
  *state_->kv_bytes += bytes;
  return {p, [context = state_->context, counter = state_->kv_bytes, bytes](std::byte* q) {
            context->free(q, bytes);
            *counter -= bytes;
          }};
}

std::shared_ptr<std::byte> engine::allocate_pinned(index_t bytes) {
  state_->context->use();
  void* p = nullptr;
  check(cudaMallocHost(&p, static_cast<std::size_t>(bytes)), "cudaMallocHost");
  return {static_cast<std::byte*>(p), [](std::byte* q) { (void)cudaFreeHost(q); }};
}

void engine::copy(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t bytes, index_t count, direction way) {
  if (bytes == 0 || count == 0) return;
  state_->context->use();
  const cudaMemcpyKind kind = way == direction::to_device ? cudaMemcpyHostToDevice : (way == direction::to_host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice);
  if (way != direction::on_device) return state_->context->copy_beside(to, to_step, from, from_step, bytes, count, kind);
  if (count == 1)
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, state_->context->stream()), "copy of keys and values");
  else
    check(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_step), from, static_cast<std::size_t>(from_step), static_cast<std::size_t>(bytes), static_cast<std::size_t>(count), kind,
                          state_->context->stream()),
        "copy of keys and values");
}

void engine::forward(const forward_run& run, float* hidden) { state_->forward(run, hidden); }
void engine::project(const float* hidden, index_t rows, float* logits) { state_->project(hidden, rows, logits); }
std::vector<token_candidate> engine::highest(const float* hidden, const candidate_request& request) { return state_->highest(hidden, request); }
const device_facts& engine::device() const { return state_->facts; }
index_t engine::repeated_steps() const { return state_->repeated_steps; }

memory_use engine::memory() const {
  const state& s = *state_;
  memory_use use{s.weight_bytes, 0, *s.kv_bytes, 0, 0, s.streamed.host_bytes(), s.resident};
  for (const device_buffer* b : {&s.x, &s.added, &s.narrow, &s.projected, &s.attended, &s.both, &s.gated, &s.hidden, &s.logits, &s.scratch, &s.request, &s.angles, &s.partial, &s.ranks, &s.squares})
    use.workspace += b->bytes();
  std::size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  use.free = static_cast<index_t>(free), use.total = static_cast<index_t>(total);
  return use;
}

device_report find_devices() {
  device_report report;
  (void)cudaDriverGetVersion(&report.driver);
  (void)cudaRuntimeGetVersion(&report.runtime);
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    (void)cudaGetLastError();
    report.problem = report.driver == 0 ? "no NVIDIA driver was found" : cat(cudaGetErrorString(status), " (driver for CUDA ", report.driver, ", library ", report.runtime, ")");
    return report;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    device_facts d{i, p.name, 10 * p.major + p.minor, p.multiProcessorCount, static_cast<index_t>(p.totalGlobalMem), 0};
    report.devices.push_back(d);
  }
  if (report.devices.empty()) report.problem = "the driver shows no device";
  return report;
}

}  // namespace blockattn::inline v0::cuda

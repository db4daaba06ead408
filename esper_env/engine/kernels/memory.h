// Memory of large tensors, kept for the next one.
//
// The C library gives blocks of more than 32 MiB back to the system at once, and the system clears every page
// of a new one: for the activations of small networks that can take longer than to compute them.
#pragma once
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

namespace esper {

// Blocks that are in use or kept, never more in all than a quarter above the most that was in use at once.
class Blocks {
 public:
  static constexpr size_t kLarge = size_t(1) << 22, kPage = size_t(1) << 21;

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t size = (bytes + kPage - 1) / kPage * kPage;
    used_ += size, peak_ = std::max(peak_, used_);
    const auto found = kept_.find(size);
    void* block = nullptr;
    if (found != kept_.end()) {
      block = found->second;
      kept_.erase(found), kept_bytes_ -= size;
    } else {
      shrink(peak_ / 4 * 5 - used_);
      block = std::aligned_alloc(kPage, size);
      if (!block) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      madvise(block, size, MADV_HUGEPAGE);
#endif
    }
    sizes_[block] = size;
    return block;
  }

  // Whether the block is one of these; then it is kept.
  bool give_back(void* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sizes_.find(block);
    if (found == sizes_.end()) return false;
    used_ -= found->second, kept_bytes_ += found->second;
    kept_.emplace(found->second, block);
    sizes_.erase(found);
    return true;
  }

  // Gives back to the system what is kept and not in use.
  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    shrink(0);
    peak_ = used_;
  }

  size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

 private:
  void shrink(size_t most) {
    while (kept_bytes_ > most) {
      const auto largest = std::prev(kept_.end());
      kept_bytes_ -= largest->first;
      std::free(largest->second);
      kept_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::multimap<size_t, void*> kept_;
  std::unordered_map<void*, size_t> sizes_;  // of those in use
  size_t used_ = 0, kept_bytes_ = 0, peak_ = 0;
};

// Torch's allocator for CPUs, with large blocks from `Blocks` on threads that ask for it.
class Keeping final : public c10::Allocator {
 public:
  // Never destroyed: tensors may outlive everything else.
  static Keeping& instance() {
    static Keeping* keeping = new Keeping();
    return *keeping;
  }
  // Whether this thread's large tensors are kept.
  static bool& here() {
    thread_local bool keep = false;
    return keep;
  }

  c10::DataPtr allocate(size_t bytes) override {
    if (!here() || bytes < Blocks::kLarge) return otherwise_->allocate(bytes);
    void* block = blocks.take(bytes);
    return {block, block, &free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  Blocks blocks;

 private:
  Keeping() : otherwise_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 1); }
  static void free(void* block) {
    if (!instance().blocks.give_back(block)) instance().otherwise_->raw_deleter()(block);
  }

  c10::Allocator* const otherwise_;
};

// Large tensors made while this lives are kept.
class Keep {
 public:
  Keep() : before_(Keeping::here()) { Keeping::instance(), Keeping::here() = true; }
  ~Keep() { Keeping::here() = before_; }

 private:
  const bool before_;
};

}  // namespace esper

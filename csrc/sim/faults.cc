#include "sim/faults.h"

#include <sstream>
#include <stdexcept>

namespace mix::sim {

namespace {

struct Kind {
  const char *part, *effect;
  std::vector<const char*> required, optional;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> known = {
      {"alloc", "fail", {}, {"nth", "above"}},   {"copy", "fail", {}, {"nth"}},
      {"copy", "corrupt", {}, {"nth"}},          {"all_reduce", "wrong", {}, {"nth"}},
      {"event", "drop", {}, {"nth"}},            {"stream", "stall", {"ms"}, {"nth"}},
      {"rank", "dead", {"rank"}, {"nth"}},       {"rank", "slow", {"rank", "ms"}, {"nth"}},
      {"results", "bfloat16", {}, {}},           {"operator", "wrong", {"name"}, {"nth"}},
      {"operator", "missing", {"name"}, {}},
  };
  return known;
}

std::vector<std::string> split(const std::string& text, char mark) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, mark);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

bool among(const std::vector<const char*>& names, const std::string& name) {
  for (const char* one : names)
    if (name == one) return true;
  return false;
}

Fault parse(const std::string& text) {
  Fault fault;
  fault.text = text;
  const auto parts = split(text, ',');
  const auto colon = parts[0].find(':');
  fault.part = parts[0].substr(0, colon);
  fault.effect = colon == std::string::npos ? "" : parts[0].substr(colon + 1);
  const Kind* kind = nullptr;
  std::string known;
  for (const auto& one : kinds()) {
    if (fault.part == one.part && fault.effect == one.effect) kind = &one;
    known += std::string(known.empty() ? "" : ", ") + one.part + ":" + one.effect;
  }
  if (kind == nullptr) throw std::invalid_argument("simulated fault '" + text + "' is unknown; known are " + known);
  for (size_t i = 1; i < parts.size(); ++i) {
    const auto equals = parts[i].find('=');
    const auto key = parts[i].substr(0, equals);
    if (equals == std::string::npos || !(among(kind->required, key) || among(kind->optional, key)))
      throw std::invalid_argument("simulated fault '" + text + "': '" + parts[i] + "' is not a setting of it");
    const auto value = parts[i].substr(equals + 1);
    if (key != "name" && (value.empty() || value.find_first_not_of("0123456789") != std::string::npos))
      throw std::invalid_argument("simulated fault '" + text + "': " + key + " must be a whole number, not '" + value + "'");
    fault.values[key] = value;
  }
  for (const char* key : kind->required)
    if (!fault.values.count(key))
      throw std::invalid_argument("simulated fault '" + text + "' needs " + key + "=...");
  return fault;
}

}  // namespace

int64_t Fault::number(const std::string& key, int64_t missing) const {
  const auto found = values.find(key);
  return found == values.end() ? missing : std::stoll(found->second);
}

Faults& Faults::instance() {
  static auto* faults = new Faults;
  return *faults;
}

void Faults::add(const std::string& text) {
  std::vector<std::shared_ptr<Fault>> parsed;
  for (const auto& one : split(text, ';')) parsed.push_back(std::make_shared<Fault>(parse(one)));
  std::lock_guard<std::mutex> lock(mutex_);
  faults_.insert(faults_.end(), parsed.begin(), parsed.end());
  any_ = !faults_.empty();
  ++generation_;
}

void Faults::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  faults_.clear();
  any_ = false;
  ++generation_;
}

std::shared_ptr<const Fault> Faults::hit(const char* part, const char* effect, int64_t size,
                                         const std::string& name) {
  if (!any()) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& fault : faults_) {
    if (fault->part != part || fault->effect != effect) continue;
    const auto wanted = fault->values.find("name");
    if (wanted != fault->values.end() && wanted->second != name) continue;
    if (size <= fault->number("above", -1)) continue;
    const int64_t nth = fault->number("nth", 0);
    if (++fault->calls != nth && nth != 0) continue;
    ++fault->hits;
    return fault;
  }
  return nullptr;
}

std::vector<Fault> Faults::list() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Fault> copies;
  for (const auto& fault : faults_) copies.push_back(*fault);
  return copies;
}

}  // namespace mix::sim

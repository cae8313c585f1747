// Bytes, digests, canonical JSON and files, as docs/manifest.md and docs/trust.md have them.
#pragma once

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using json = nlohmann::json;
using Bytes = std::string;

// Why a cache is refused; `kind` is a word of docs/manifest.md.
struct NoGo : std::runtime_error {
    std::string kind;
    NoGo(std::string kind_, const std::string& why) : std::runtime_error(why), kind(std::move(kind_)) {}
};

[[noreturn]] inline void invalid(const std::string& why) { throw NoGo("manifest-invalid", why); }
[[noreturn]] inline void damaged(const std::string& why) { throw NoGo("artifact-damaged", why); }

inline Bytes sha256_raw(const Bytes& data) {
    Bytes out(SHA256_DIGEST_LENGTH, '\0');
    SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(),
           reinterpret_cast<unsigned char*>(out.data()));
    return out;
}

inline std::string hex(const Bytes& data) {
    std::string out;
    for (unsigned char byte : data) {
        out += "0123456789abcdef"[byte >> 4];
        out += "0123456789abcdef"[byte & 15];
    }
    return out;
}

inline std::string sha256(const Bytes& data) { return hex(sha256_raw(data)); }

inline bool is_hex(const std::string& text, std::size_t length) {
    return text.size() == length && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

inline Bytes unhex(const std::string& text) {
    Bytes out;
    for (std::size_t at = 0; at + 1 < text.size(); at += 2)
        out += static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16));
    return out;
}

// --- canonical JSON -------------------------------------------------------------------------------

inline void require_canonical_values(const json& value, int depth) {
    if (value.is_number_float() || value.is_binary() || value.is_discarded()) invalid("a number that is no integer");
    if (value.is_structured()) {
        if (depth == 0) invalid("more than 64 maps and lists inside each other");
        for (const auto& item : value) require_canonical_values(item, depth - 1);
    }
}

inline Bytes encode(const json& value) { return value.dump(-1, ' ', true); }

inline json decode(const Bytes& data) {
    json value = json::parse(data, nullptr, false);
    if (value.is_discarded()) invalid("no JSON");
    require_canonical_values(value, 64);
    if (encode(value) != data) invalid("JSON in another form");
    return value;
}

inline std::string digest(const std::string& domain, const json& document) {
    return sha256(domain + '\0' + encode(document));
}

// --- fields of untrusted documents ----------------------------------------------------------------

inline const json& member(const json& document, const std::string& name) {
    if (!document.is_object()) invalid("a map expected at " + name);
    auto found = document.find(name);
    if (found == document.end()) invalid("no member " + name);
    return *found;
}

inline bool has(const json& document, const std::string& name) {
    if (!document.is_object()) invalid("a map expected around " + name);
    return document.contains(name);
}

inline void require_members(const json& document, const std::vector<std::string>& names) {
    if (!document.is_object() || document.size() != names.size()) invalid("other members than expected");
    for (const auto& name : names) member(document, name);
}

inline std::uint64_t count(const json& value) {
    bool whole = value.is_number_unsigned() || (value.is_number_integer() && value.get<std::int64_t>() >= 0);
    if (!whole || value.get<std::uint64_t>() >> 63) invalid("a count expected, found " + value.dump());
    return value.get<std::uint64_t>();
}

inline std::string text(const json& value) {
    if (!value.is_string()) invalid("a text expected");
    auto found = value.get<std::string>();
    std::size_t points = 0;
    for (unsigned char byte : found) points += (byte & 0xC0) != 0x80;
    if (points > 256) invalid("a short text expected");
    return found;
}

inline std::string digest_field(const json& value) {
    if (!value.is_string() || !is_hex(value.get<std::string>(), 64)) invalid("a digest expected");
    return value.get<std::string>();
}

struct Artifact {
    std::string sha256;
    std::uint64_t size = 0;
    bool operator<(const Artifact& other) const { return sha256 < other.sha256; }
};

inline Artifact artifact(const json& document) {
    require_members(document, {"sha256", "size"});
    return {digest_field(document["sha256"]), count(document["size"])};
}

// --- files ----------------------------------------------------------------------------------------

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }

  private:
    int fd_;
};

// Open a regular file below a folder; no part of its name may be a symbolic link. -1, and errno, if it is none.
inline int open_below(int folder, const std::string& name) {
    Descriptor above(dup(folder));
    std::size_t start = 0;
    for (std::size_t slash; (slash = name.find('/', start)) != std::string::npos; start = slash + 1) {
        int next = openat(above.get(), name.substr(start, slash - start).c_str(),
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0) return -1;
        above = Descriptor(next);
    }
    Descriptor file(openat(above.get(), name.substr(start).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat found {};
    if (file.get() < 0) return -1;
    if (fstat(file.get(), &found) != 0 || !S_ISREG(found.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return file.release();
}

inline std::uint64_t size_of(int fd) {
    struct stat found {};
    return fstat(fd, &found) == 0 ? static_cast<std::uint64_t>(found.st_size) : 0;
}

// Read at most `limit` bytes from the beginning.
inline Bytes read_up_to(int fd, std::uint64_t limit) {
    Bytes out;
    char buffer[1 << 16];
    while (out.size() < limit) {
        ssize_t got = pread(fd, buffer, std::min<std::uint64_t>(sizeof buffer, limit - out.size()),
                            static_cast<off_t>(out.size()));
        if (got <= 0) break;
        out.append(buffer, static_cast<std::size_t>(got));
    }
    return out;
}

// Trusted keys, signature files and the device gate, as docs/trust.md and docs/manifest.md have them.
#pragma once

#include "base.hpp"

struct TrustedKey {
    Bytes raw;
    std::optional<std::uint64_t> not_after;
    std::string id() const { return sha256(raw).substr(0, 16); }
};

inline bool anybody_can_sign(Bytes key) {
    key[31] = static_cast<char>(key[31] & 0x7F);
    const Bytes top(30, '\xff');
    bool not_below_prime = key[31] == 0x7F && key.substr(1, 30) == top && static_cast<unsigned char>(key[0]) >= 0xED;
    Bytes minus_one = Bytes(1, '\xec') + top + Bytes(1, '\x7f');
    return not_below_prime || key == Bytes(32, '\0') || key == Bytes(1, '\1') + Bytes(31, '\0') || key == minus_one ||
           key == unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05") ||
           key == unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a");
}

inline std::vector<TrustedKey> parse_keys(const std::string& file) {
    std::vector<TrustedKey> keys;
    std::size_t start = 0;
    while (start <= file.size()) {
        std::size_t end = std::min(file.find('\n', start), file.size());
        std::string line = file.substr(start, end - start);
        start = end + 1;
        line = line.substr(0, line.find('#'));
        while (!line.empty() && line.back() == '\r') line.pop_back();
        std::vector<std::string> words;
        for (std::size_t at = 0; (at = line.find_first_not_of(" \t", at)) != std::string::npos;) {
            std::size_t stop = std::min(line.find_first_of(" \t", at), line.size());
            words.push_back(line.substr(at, stop - at));
            at = stop;
        }
        if (words.empty()) continue;
        TrustedKey key;
        if (words.size() > 2 || !is_hex(words[0], 64)) throw NoGo("keys", "a line of another form");
        key.raw = unhex(words[0]);
        if (words.size() == 2) {
            const std::string name = "not_after=";
            std::string digits = words[1].substr(std::min(name.size(), words[1].size()));
            bool fits = words[1].rfind(name, 0) == 0 && !digits.empty() && digits.size() <= 18 &&
                        digits.find_first_not_of("0123456789") == std::string::npos;
            if (!fits) throw NoGo("keys", "a line of another form");
            key.not_after = std::stoull(digits);
        }
        if (anybody_can_sign(key.raw)) throw NoGo("keys", "a key under which anybody can sign");
        keys.push_back(key);
    }
    return keys;
}

inline bool is_valid_signature(const Bytes& key, const Bytes& signature, const Bytes& message) {
    auto data = [](const Bytes& bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); };
    EVP_PKEY* public_key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, data(key), key.size());
    if (!public_key) return false;
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    bool good = context && EVP_DigestVerifyInit(context, nullptr, nullptr, nullptr, public_key) == 1 &&
                EVP_DigestVerify(context, data(signature), signature.size(), data(message), message.size()) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(public_key);
    return good;
}

// The id of the trusted key whose signature this file holds; nothing if it holds none.
inline std::optional<std::string> signer_of(const Bytes& manifest, const Bytes& file, std::uint64_t generation,
                                            const std::vector<TrustedKey>& keys) {
    const std::string head = "{\"format\":1,\"key_id\":\"", middle = "\",\"signature\":\"", tail = "\"}\n";
    if (file.size() != 184 || file.compare(0, 22, head) != 0 || file.compare(38, 15, middle) != 0 ||
        file.compare(181, 3, tail) != 0)
        return std::nullopt;
    std::string id = file.substr(22, 16), signature = file.substr(53, 128);
    if (!is_hex(id, 16) || !is_hex(signature, 128)) return std::nullopt;
    bool good = false;
    for (const auto& key : keys) {
        if (key.id() != id) continue;
        if (key.not_after && generation > *key.not_after) return std::nullopt;
        good |= is_valid_signature(key.raw, unhex(signature),
                                   std::string("c10/manifest/1") + '\0' + sha256_raw(manifest));
    }
    return good ? std::optional(id) : std::nullopt;
}

// Whether a device runs engines of a backend for a target.
inline bool runs(const json& device, const std::string& backend, const std::string& target) {
    const json& gpu = device["gpu"];
    if (backend == "onnxruntime") return target == "cpu";
    if (backend == "openvino") return device["openvino_target"] == target;
    if (gpu.is_null()) return false;
    auto capability = gpu["capability"].get<std::string>();
    if (backend == "tensorrt") return target == capability + ":" + gpu["name"].get<std::string>();
    if (backend != "tensorrt-rtx") return false;
    std::string listed = "+" + (target == "portable" ? "sm80+sm86+sm89+sm120+sm121" : target) + "+";
    return listed.find("+" + capability + "+") != std::string::npos;
}

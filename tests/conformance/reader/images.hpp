// The arithmetic of pictures, as docs/images.md has it.
#pragma once

#include <cmath>
#include <map>

#include "base.hpp"

struct Picture {
    std::int64_t height = 0, width = 0;
    std::vector<unsigned char> pixels;  // RGB
    Picture(std::int64_t height_, std::int64_t width_)
        : height(height_), width(width_), pixels(static_cast<std::size_t>(height_ * width_ * 3)) {}
    unsigned char& at(std::int64_t row, std::int64_t column, std::int64_t channel) {
        return pixels[static_cast<std::size_t>((row * width + column) * 3 + channel)];
    }
    unsigned char at(std::int64_t row, std::int64_t column, std::int64_t channel) const {
        return pixels[static_cast<std::size_t>((row * width + column) * 3 + channel)];
    }
    std::string digest() const { return sha256(Bytes(pixels.begin(), pixels.end())); }
};

inline std::uint32_t mix(std::uint32_t value) {
    value ^= value >> 16;
    value *= 0x85EBCA6Bu;
    value ^= value >> 13;
    value *= 0xC2B2AE35u;
    return value ^ value >> 16;
}

inline Picture golden_image(std::uint32_t seed, std::uint32_t number, std::int64_t height, std::int64_t width) {
    Picture picture(height, width);
    for (std::uint32_t channel = 0; channel < 3; ++channel) {
        std::uint32_t key = 1000003u * seed + 3 * number + channel, slope = mix(key);
        auto noise = [&](std::int64_t n, std::int64_t y, std::int64_t x) -> std::int64_t {
            auto corner = [&](std::int64_t r, std::int64_t q) -> std::int64_t {
                return mix(0x9E37u * static_cast<std::uint32_t>(r) + 0x79B90001u * static_cast<std::uint32_t>(q) +
                           31 * key + static_cast<std::uint32_t>(n)) & 255;
            };
            std::int64_t r = y / n, q = x / n, d = y % n, e = x % n;
            std::int64_t top = corner(r, q) * (n - e) + corner(r, q + 1) * e;
            std::int64_t low = corner(r + 1, q) * (n - e) + corner(r + 1, q + 1) * e;
            return (top * (n - d) + low * d) / (n * n);
        };
        for (std::int64_t y = 0; y < height; ++y)
            for (std::int64_t x = 0; x < width; ++x) {
                std::int64_t ramp = (y * (slope & 255) / height + x * (slope >> 8 & 255) / width) / 2;
                std::int64_t rough = (4 * noise(32, y, x) + 2 * noise(8, y, x) + noise(2, y, x)) / 7;
                picture.at(y, x, channel) = static_cast<unsigned char>((ramp + rough) / 2);
            }
    }
    return picture;
}

struct Weights {
    std::int64_t first;
    std::vector<std::int64_t> k;
};

inline std::vector<Weights> weights_of(std::int64_t n, std::int64_t m) {
    double scale = static_cast<double>(n) / static_cast<double>(m), wide = std::max(scale, 1.0);
    std::vector<Weights> all;
    for (std::int64_t i = 0; i < m; ++i) {
        double centre = (static_cast<double>(i) + 0.5) * scale, total = 0;
        auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - wide + 0.5));
        auto end = std::min<std::int64_t>(n, static_cast<std::int64_t>(centre + wide + 0.5));
        std::vector<double> w;
        for (std::int64_t x = first; x < end; ++x) {
            double weight = 1 - std::fabs((static_cast<double>(x) - centre + 0.5) * (1 / wide));
            w.push_back(std::max(0.0, weight));
            total += w.back();
        }
        Weights each{first, {}};
        for (double weight : w) each.k.push_back(static_cast<std::int64_t>(0.5 + weight / total * (1 << 22)));
        all.push_back(each);
    }
    return all;
}

inline unsigned char rounded(std::int64_t sum) {
    return static_cast<unsigned char>(std::clamp<std::int64_t>(((1 << 21) + sum) >> 22, 0, 255));
}

inline Picture resample(const Picture& picture, std::int64_t height, std::int64_t width) {
    Picture across(picture.height, width);
    if (width == picture.width) {
        across = picture;
    } else {
        auto weights = weights_of(picture.width, width);
        for (std::int64_t y = 0; y < picture.height; ++y)
            for (std::int64_t x = 0; x < width; ++x)
                for (std::int64_t c = 0; c < 3; ++c) {
                    const auto& each = weights[static_cast<std::size_t>(x)];
                    std::int64_t sum = 0;
                    for (std::size_t at = 0; at < each.k.size(); ++at)
                        sum += each.k[at] * picture.at(y, each.first + static_cast<std::int64_t>(at), c);
                    across.at(y, x, c) = rounded(sum);
                }
    }
    if (height == picture.height) return across;
    Picture down(height, width);
    auto weights = weights_of(picture.height, height);
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
            for (std::int64_t c = 0; c < 3; ++c) {
                const auto& each = weights[static_cast<std::size_t>(y)];
                std::int64_t sum = 0;
                for (std::size_t at = 0; at < each.k.size(); ++at)
                    sum += each.k[at] * across.at(each.first + static_cast<std::int64_t>(at), x, c);
                down.at(y, x, c) = rounded(sum);
            }
    return down;
}

inline Picture middle_square(const Picture& picture) {
    std::int64_t side = std::min(picture.height, picture.width);
    std::int64_t top = (picture.height - side) / 2, left = (picture.width - side) / 2;
    Picture square(side, side);
    for (std::int64_t y = 0; y < side; ++y)
        for (std::int64_t x = 0; x < side; ++x)
            for (std::int64_t c = 0; c < 3; ++c) square.at(y, x, c) = picture.at(top + y, left + x, c);
    return square;
}

// Flatten a picture whose alpha is the first channel of another one.
inline Picture flatten(const Picture& picture, const Picture& alpha) {
    std::int64_t visible = 0, sums[3] = {0, 0, 0};
    for (std::int64_t y = 0; y < picture.height; ++y)
        for (std::int64_t x = 0; x < picture.width; ++x) {
            visible += alpha.at(y, x, 0);
            for (std::int64_t c = 0; c < 3; ++c) sums[c] += picture.at(y, x, c) * alpha.at(y, x, 0);
        }
    Picture flat(picture.height, picture.width);
    for (std::int64_t y = 0; y < picture.height; ++y)
        for (std::int64_t x = 0; x < picture.width; ++x)
            for (std::int64_t c = 0; c < 3; ++c) {
                std::int64_t a = alpha.at(y, x, 0), mean = visible ? sums[c] / visible : 127;
                flat.at(y, x, c) = static_cast<unsigned char>((picture.at(y, x, c) * a + mean * (255 - a) + 127) / 255);
            }
    return flat;
}

// The input of a network, as bytes of little-endian floats.
inline Bytes sample_of(Picture picture, const json& contract) {
    std::int64_t height = contract["size"][0], width = contract["size"][1];
    if (height == width) picture = middle_square(picture);
    picture = resample(picture, height, width);
    bool bgr = contract["colour"] == "bgr", planes = contract["layout"] == "nchw";
    Bytes out;
    auto put = [&](std::int64_t y, std::int64_t x, std::int64_t c) {
        auto decimal = [&](const char* name) {
            return static_cast<float>(std::stod(contract[name][static_cast<std::size_t>(c)].get<std::string>()));
        };
        volatile float value = picture.at(y, x, bgr ? 2 - c : c);  // each operation rounds to 32 bits
        value = value - decimal("mean");
        value = value / decimal("std");
        float rounded_value = value;
        out.append(reinterpret_cast<const char*>(&rounded_value), 4);
    };
    if (planes) {
        for (std::int64_t c = 0; c < 3; ++c)
            for (std::int64_t y = 0; y < height; ++y)
                for (std::int64_t x = 0; x < width; ++x) put(y, x, c);
    } else {
        for (std::int64_t y = 0; y < height; ++y)
            for (std::int64_t x = 0; x < width; ++x)
                for (std::int64_t c = 0; c < 3; ++c) put(y, x, c);
    }
    return out;
}

// The picture of a chunk; the tile of a column and row is golden image 1000 * row + column.
inline Picture chunk_picture(const json& ask) {
    std::int64_t zoom = ask["zoom"], k = ask["k"], m = ask["m"], x = ask["x"], y = ask["y"], edge = ask["tile_edge"];
    std::int64_t size[2] = {ask["size"][0], ask["size"][1]}, first[2] = {y, x}, step[2] = {}, cut[2] = {};
    std::vector<std::int64_t> kept[2];
    for (int axis = 0; axis < 2; ++axis) {
        step[axis] = std::min((size[axis] + m - 1) / m, edge >> k);
        cut[axis] = std::min(size[axis], m * step[axis]);
        for (std::int64_t j = 0; j < cut[axis]; ++j)
            kept[axis].push_back((2 * j + 1) * (m * step[axis]) / (2 * cut[axis]) +
                                 (first[axis] & ((1 << k) - 1)) * step[axis]);
    }
    std::int64_t high = step[0] << k, wide = step[1] << k;
    std::map<std::pair<std::int64_t, std::int64_t>, Picture> tiles;
    Picture picture(cut[0], cut[1]);
    for (std::int64_t row = 0; row < cut[0]; ++row)
        for (std::int64_t column = 0; column < cut[1]; ++column) {
            std::int64_t down = kept[0][static_cast<std::size_t>(row)], across = kept[1][static_cast<std::size_t>(column)];
            std::int64_t tile_row = (y >> k) + down / high, tile_column = ((x >> k) + across / wide) & ((1 << zoom) - 1);
            auto found = tiles.find({tile_row, tile_column});
            if (found == tiles.end()) {
                auto number = static_cast<std::uint32_t>(1000 * tile_row + tile_column);
                found = tiles.emplace(std::pair(tile_row, tile_column), resample(golden_image(0, number, edge, edge), high, wide)).first;
            }
            for (std::int64_t c = 0; c < 3; ++c)
                picture.at(row, column, c) = found->second.at(down % high, across % wide, c);
        }
    return resample(picture, size[0], size[1]);
}

inline Picture asked_picture(const json& ask) {
    return golden_image(ask["seed"], ask["number"], ask["height"], ask["width"]);
}

// The answer to one test vector.
inline json answer(const json& vector) {
    const std::string what = vector["what"];
    const json& ask = vector["in"];
    if (what == "canonical") {
        try {
            decode(ask["text"].get<std::string>());
            return "canonical";
        } catch (const NoGo&) {
            return "refused";
        }
    }
    if (what == "digest") return digest(ask["domain"], ask["document"]);
    if (what == "golden") return asked_picture(ask).digest();
    if (what == "resample") return resample(asked_picture(ask), ask["size"][0], ask["size"][1]).digest();
    if (what == "sample") return sha256(sample_of(asked_picture(ask), ask["preprocessing"]));
    if (what == "chunk") return chunk_picture(ask).digest();
    if (what == "alpha") {
        json other = ask;
        other["number"] = ask["alpha"];
        return flatten(asked_picture(ask), asked_picture(other)).digest();
    }
    return nullptr;
}

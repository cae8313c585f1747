// A reader of flight caches, written from the documents: says what it finds of each conformance case.
//
//     reader cases CASES.json FOLDER      the verdicts, by name of the case
//     reader vectors VECTORS.json         the answers, by name of the test vector

#include <dirent.h>
#include <sys/statvfs.h>

#include <fstream>
#include <iostream>
#include <map>
#include <set>

#include "base.hpp"
#include "images.hpp"
#include "manifest.hpp"
#include "tables.hpp"
#include "trust.hpp"

namespace {

// Rule 1.
Descriptor open_cache(const std::string& path) {
    Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.get() < 0) throw NoGo(errno == EACCES ? "permission" : "no-generation", "no folder");
    struct statvfs system {};
    if (fstatvfs(folder.get(), &system) == 0 && system.f_flag & ST_RDONLY) return folder;
    for (const char* name : {".", "artifacts", "manifests"}) {
        struct stat found {};
        if (fstatat(folder.get(), name, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(found.st_mode) &&
            found.st_mode & S_IWOTH)
            throw NoGo("permission", "everybody may write");
    }
    return folder;
}

// The number in the name of a manifest; nothing if it is the name of none.
std::optional<std::uint64_t> number_in(const std::string& name) {
    const std::string letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", digits = "0123456789";
    if (name.size() < 5 || name.substr(name.size() - 5) != ".json") return std::nullopt;
    std::string stem = name.substr(0, name.size() - 5);
    std::size_t start = stem.find_last_not_of(digits) + 1;  // npos + 1 is 0
    std::string number = stem.substr(start), label = stem.substr(0, start);
    if (number.size() < 8 || number.size() > 18) return std::nullopt;
    if (!label.empty() && (label.back() != '-' || label.size() < 2 || label.size() > 33 ||
                           letters.find(label[0]) == std::string::npos ||
                           label.find_first_not_of(letters + digits + "_-") != std::string::npos))
        return std::nullopt;
    std::uint64_t found = std::stoull(number);
    return found ? std::optional(found) : std::nullopt;
}

struct Found {
    Bytes raw;
    std::uint64_t generation;
    std::vector<Bytes> signatures;
};

std::optional<Bytes> read_small(int folder, const std::string& name, std::uint64_t limit) {
    Descriptor file(open_below(folder, name));
    if (file.get() < 0) {
        if (errno == EACCES) throw NoGo("permission", name);
        return std::nullopt;
    }
    if (size_of(file.get()) > limit) return std::nullopt;
    Bytes content = read_up_to(file.get(), limit + 1);
    return content.size() > limit ? std::nullopt : std::optional(content);
}

// Rule 2, and the signature files.
Found find_manifest(int folder, const json& wanted) {
    int manifests = openat(folder, "manifests", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (manifests < 0) throw NoGo(errno == EACCES ? "permission" : "no-generation", "no manifests");
    DIR* stream = fdopendir(manifests);
    std::map<std::uint64_t, std::set<std::string>> names;
    while (const dirent* entry = readdir(stream))
        if (auto number = number_in(entry->d_name)) names[*number].insert(entry->d_name);
    closedir(stream);
    auto chosen = wanted.is_null() ? names.empty() ? names.end() : std::prev(names.end())
                                   : names.find(wanted.get<std::uint64_t>());
    if (chosen == names.end()) throw NoGo("no-generation", "no such generation");
    std::string name = "manifests/" + *chosen->second.begin();
    auto raw = read_small(folder, name, 65536);
    if (!raw) throw NoGo("no-generation", "no manifest that can be read");
    Found found{*raw, chosen->first, {}};
    for (int place = 1; place <= 16; ++place) {
        std::string ending = ".sig" + (place > 1 ? std::to_string(place) : std::string());
        if (auto signature = read_small(folder, name.substr(0, name.size() - 5) + ending, 4096))
            found.signatures.push_back(*signature);
    }
    return found;
}

void require_floor(const Manifest& manifest, const json& floor) {
    std::uint64_t least = 0;
    if (floor.is_object()) {
        if (!floor.contains(manifest.cache_id)) throw NoGo("floor", "a cache that nobody adopted");
        least = floor[manifest.cache_id].get<std::uint64_t>();
    } else if (!floor.is_null()) {
        least = floor.get<std::uint64_t>();
    }
    if (manifest.generation < least) throw NoGo("floor", "below the floor");
}

void require_device(const Manifest& manifest, const json& device) {
    for (const auto& engine : manifest.engines) {
        if (!runs(device, engine.backend, engine.target)) throw NoGo("device", "an engine for another device");
        const json& libraries = device["libraries"];
        if (libraries.contains(engine.backend) && libraries[engine.backend] != engine.version)
            throw NoGo("device", "another version of the library");
    }
}

Descriptor open_artifact(int folder, const Artifact& ref) {
    Descriptor file(open_below(folder, "artifacts/" + ref.sha256.substr(0, 2) + "/" + ref.sha256));
    if (file.get() < 0) throw NoGo(errno == EACCES ? "permission" : "artifact-damaged", "no file " + ref.sha256);
    if (size_of(file.get()) != ref.size) damaged("another size of " + ref.sha256);
    return file;
}

Bytes read_artifact(int folder, const Artifact& ref) {
    Descriptor file = open_artifact(folder, ref);
    Bytes content = read_up_to(file.get(), ref.size + 1);
    if (content.size() != ref.size || sha256(content) != ref.sha256) damaged("other bytes of " + ref.sha256);
    return content;
}

struct Content {
    TileTable tiles;
    std::vector<Cell> blocks, packs;
    std::optional<Delta> delta;
};

std::uint64_t sum_of_rows(const std::vector<Cell>& cells) {
    std::uint64_t sum = 0;
    for (const auto& cell : cells) sum += cell.rows;
    return sum;
}

// Rules 13 and 14.
Content verify(int folder, const Manifest& manifest) {
    for (const auto& ref : manifest.artifacts()) open_artifact(folder, ref);
    for (const auto& ref : manifest.artifacts()) read_artifact(folder, ref);
    Content content;
    content.tiles = parse_tiles(read_artifact(folder, manifest.tiles));
    if (content.tiles.ids.size() != manifest.tile_count || content.tiles.set_digest() != manifest.tile_set)
        damaged("other tiles");
    if (manifest.has_delta) {
        content.delta = parse_delta(read_artifact(folder, manifest.delta));
        if (content.delta->added.size() != manifest.added || content.delta->dropped.size() != manifest.dropped ||
            content.delta->dimensions != manifest.dimensions)
            damaged("another delta");
    }
    content.blocks = parse_cells(read_artifact(folder, manifest.blocks), "C10BLCK1");
    if (sum_of_rows(content.blocks) != manifest.rows) damaged("another number of rows");
    for (const auto& cell : content.blocks)
        if (cell.weights != manifest.weights) damaged("blocks of other networks");
    if (manifest.carries) {
        content.packs = parse_cells(read_artifact(folder, manifest.packs), "C10PCKS1");
        if (sum_of_rows(content.packs) != manifest.carried_tiles) damaged("another number of carried tiles");
    }
    for (const auto* cells : {&content.blocks, &content.packs})
        for (const auto& cell : *cells)
            for (const auto& ref : cell.files) read_artifact(folder, ref);
    return content;
}

// --- what is found --------------------------------------------------------------------------------

std::string digest_of_chunk(const Manifest& manifest, const TileTable& tiles, std::uint64_t id) {
    std::uint64_t view = id >> 50 & 255, k = view >> 5, m = view & 31, zoom = (id >> 58) - k;
    std::uint64_t x = id >> 25 & 0x1FFFFFF, y = id & 0x1FFFFFF, inside = (1u << k) - 1, edge = 0;
    for (const auto& level : manifest.levels)
        if (level.zoom == zoom && level.k == k && level.m == m) edge = level.tile_edge;
    if (!edge) damaged("a chunk of no level");
    Bytes bytes("c10/chunk/1");
    bytes += '\0';
    for (std::uint64_t value : {k, m, x & inside, y & inside}) bytes += static_cast<char>(value);
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(edge >> shift & 255);
    for (std::uint64_t row = y >> k; row <= (y + m - 1) >> k; ++row)
        for (std::uint64_t column = x >> k; column <= (x + m - 1) >> k; ++column) {
            auto at = tiles.row(zoom << 58 | (column & ((1ull << zoom) - 1)) << 25 | row);
            if (!at) damaged("a chunk over a tile that is not there");
            bytes += unhex(tiles.digests[*at]);
        }
    return sha256(bytes);
}

json middle_of(std::uint64_t id) {
    const double pi = std::acos(-1.0);
    std::uint64_t around = 1ull << (id >> 58), m = id >> 50 & 31, x = id >> 25 & 0x1FFFFFF, y = id & 0x1FFFFFF;
    double n = static_cast<double>(around);
    double longitude = static_cast<double>((2 * x + m) % (2 * around)) * 180 / n - 180;
    double latitude = std::atan(std::sinh(pi * (1 - static_cast<double>(2 * y + m) / n))) * 180 / pi;
    return {std::llrint(longitude * 1e7), std::llrint(latitude * 1e7)};
}

json find(int folder, const Manifest& manifest, const Content& content, std::uint64_t id) {
    std::uint64_t zoom = id >> 58, view = id >> 50 & 255, x = id >> 25 & 0x1FFFFFF, y = id & 0x1FFFFFF;
    json found = {{"id", std::to_string(id)}, {"zoom", zoom}, {"view", view}, {"x", x}, {"y", y}};
    for (const char* name : {"tile", "captured", "carried", "row", "vectors", "middle_e7"}) found[name] = nullptr;
    if (auto row = content.tiles.row(id)) {
        found["tile"] = content.tiles.digests[*row];
        std::int32_t day = content.tiles.captured[*row];
        found["captured"] = day == INT32_MIN ? json("unknown") : json(day);
    }
    auto in_cell = [&](const Cell& cell) { return cell.zoom == zoom && cell.x == x >> 4 && cell.y == y >> 4; };
    for (const auto& cell : content.packs) {
        if (!in_cell(cell) || view) continue;
        if (auto image = find_in_pack(read_artifact(folder, cell.files[0]), id)) {
            if (sha256(*image) != found["tile"]) damaged("a carried tile of other bytes");
            found["carried"] = sha256(*image);
        }
    }
    for (const auto& cell : content.blocks) {
        if (!in_cell(cell)) continue;
        std::vector<BlockRow> rows;
        for (const auto& ref : cell.files)
            if (auto row = find_in_block(read_artifact(folder, ref), cell, id)) rows.push_back(*row);
        if (rows.size() != cell.files.size()) continue;
        found["row"] = rows[0].digest;
        found["vectors"] = json::array();
        for (const auto& row : rows) {
            if (row.digest != rows[0].digest) damaged("blocks of other units");
            found["vectors"].push_back(sha256(row.vector));
        }
        if (view) {
            if (digest_of_chunk(manifest, content.tiles, id) != rows[0].digest) damaged("a chunk of other tiles");
            found["middle_e7"] = middle_of(id);
        } else if (found["tile"] != rows[0].digest) {
            damaged("the row of another tile");
        }
    }
    return found;
}

json ids_as_text(const std::vector<std::uint64_t>& ids) {
    json found = json::array();
    for (std::uint64_t id : ids) found.push_back(std::to_string(id));
    return found;
}

json tell(int folder, const Found& file, const Manifest& manifest, const Content& content, const json& signer,
          const json& wanted) {
    std::set<Artifact> refs;
    for (const auto& ref : manifest.artifacts()) refs.insert(ref);
    for (const auto* cells : {&content.blocks, &content.packs})
        for (const auto& cell : *cells) refs.insert(cell.files.begin(), cell.files.end());
    json files = json::array(), engines = json::object(), delta, found = json::array();
    for (const auto& ref : refs) files.push_back({ref.sha256, ref.size});
    for (const auto& engine : manifest.engines) engines[engine.model] = {engine.role, engine.artifact.sha256};
    if (content.delta)
        delta = {{"added", ids_as_text(content.delta->added)}, {"dropped", ids_as_text(content.delta->dropped)}};
    for (const auto& id : wanted) found.push_back(find(folder, manifest, content, std::stoull(id.get<std::string>())));
    return {{"go", true},
            {"generation", manifest.generation},
            {"origin", manifest.origin},
            {"cache_id", manifest.cache_id},
            {"format", manifest.format},
            {"identity", manifest.identity},
            {"manifest_sha256", sha256(file.raw)},
            {"body_sha256", manifest.body_sha256},
            {"signed_by", signer},
            {"files", files},
            {"engines", engines},
            {"rows", manifest.rows},
            {"delta", delta},
            {"found", found}};
}

json verdict(const std::string& path, const json& ask) {
    try {
        std::vector<TrustedKey> keys;
        if (!ask["keys"].is_null()) keys = parse_keys(ask["keys"].get<std::string>());
        Descriptor folder = open_cache(path);
        Found file = find_manifest(folder.get(), ask["generation"]);
        json signer;
        if (!ask["keys"].is_null()) {
            for (const auto& signature : file.signatures)
                if (auto id = signer_of(file.raw, signature, file.generation, keys); id && signer.is_null()) signer = *id;
            if (signer.is_null()) throw NoGo("signature", "no signature by a trusted key");
        }
        Manifest manifest = parse_manifest(file.raw);
        if (manifest.generation != file.generation) throw NoGo("verification", "another generation than the name says");
        require_floor(manifest, ask["floor"]);
        require_device(manifest, ask["device"]);
        Content content = verify(folder.get(), manifest);
        return tell(folder.get(), file, manifest, content, signer, ask["find"]);
    } catch (const NoGo& refused) {
        return {{"go", false}, {"kind", refused.kind}};
    }
}

json read_json(const char* path) {
    std::ifstream file(path);
    return json::parse(file);
}

}  // namespace

int main(int count, char** words) {
    std::string what = count > 1 ? words[1] : "";
    json answers = json::object();
    if (what == "cases" && count == 4) {
        const json file = read_json(words[2]);
        for (const auto& each : file["cases"]) {
            std::string name = each["name"];
            answers[name] = verdict(std::string(words[3]) + "/" + name, each["ask"]);
        }
    } else if (what == "vectors" && count == 3) {
        const json file = read_json(words[2]);
        for (const auto& each : file["vectors"]) answers[each["name"].get<std::string>()] = answer(each);
    } else {
        std::cerr << "usage: reader cases CASES.json FOLDER | reader vectors VECTORS.json\n";
        return 2;
    }
    std::cout << answers.dump() << "\n";
    return 0;
}

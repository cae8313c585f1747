// The rules for manifests, by their numbers in docs/manifest.md.
#pragma once

#include <map>
#include <set>

#include "base.hpp"

struct EngineEntry {
    std::string model, role, backend, version, target;
    Artifact artifact;
};

struct Level {
    std::uint64_t zoom = 0, k = 0, m = 0, tile_edge = 0;
};

struct Manifest {
    std::uint64_t format = 0, generation = 0, origin = 0, tile_count = 0, rows = 0, dimensions = 0;
    std::uint64_t added = 0, dropped = 0, carried_tiles = 0;
    std::string cache_id, identity, body_sha256, tile_set;
    Artifact tiles, index, blocks, delta, packs;
    bool has_delta = false, carries = false;
    std::vector<Artifact> others;  // calibration, area, report, golden answers, proof
    std::vector<EngineEntry> engines;
    std::vector<Level> levels;
    std::vector<std::uint64_t> weights;  // of several descriptor networks, by name

    std::vector<Artifact> artifacts() const {
        std::vector<Artifact> found = others;
        found.insert(found.end(), {tiles, index, blocks});
        if (has_delta) found.push_back(delta);
        if (carries) found.push_back(packs);
        for (const auto& engine : engines) found.push_back(engine.artifact);
        return found;
    }
};

// --- columns --------------------------------------------------------------------------------------

inline std::vector<std::string> names_of_pointer(const std::string& pointer) {
    if (pointer.empty() || pointer[0] != '/') invalid("a column that is no pointer");
    std::vector<std::string> names(1);
    for (std::size_t at = 1; at < pointer.size(); ++at) {
        if (pointer[at] == '/') {
            names.emplace_back();
        } else if (pointer[at] == '~' && at + 1 < pointer.size() && (pointer[at + 1] == '0' || pointer[at + 1] == '1')) {
            names.back() += pointer[++at] == '0' ? '~' : '/';
        } else {
            names.back() += pointer[at];
        }
    }
    if (names.size() > 16) invalid("a pointer of more than 16 names");
    return names;
}

inline json rows_of_columns(const std::map<std::string, json>& columns) {
    std::size_t number = 0;
    for (const auto& [pointer, values] : columns) number = std::max(number, values.size());
    if (number > 64) invalid("more than 64 rows");
    std::vector<json> rows(number, json::object());
    for (const auto& [pointer, values] : columns) {
        if (values.size() != 1 && values.size() != number) invalid("a column of another length");
        auto names = names_of_pointer(pointer);
        for (std::size_t row = 0; row < number; ++row) {
            const json& value = values[values.size() == 1 ? 0 : row];
            if (value.is_null()) continue;
            json* holder = &rows[row];
            for (std::size_t at = 0; at + 1 < names.size(); ++at) {
                if (!holder->contains(names[at])) (*holder)[names[at]] = json::object();
                holder = &(*holder)[names[at]];
                if (!holder->is_object()) invalid("a column below a value");
            }
            if (holder->contains(names.back())) invalid("a second value of a column");
            (*holder)[names.back()] = value;
        }
    }
    return json(rows);
}

inline std::map<std::string, json> tables_of_columns(const json& written) {
    if (!written.is_object()) invalid("no columns");
    std::map<std::string, json> seen, tables;
    std::size_t number = 0, size = 0;
    for (const auto& [table, columns] : written.items()) {
        if (!columns.is_object()) invalid("no columns");
        std::map<std::string, json> own;
        for (const auto& [pointer, named] : columns.items()) {
            json values = named;
            if (named.is_string()) {
                auto first = seen.find(named.get<std::string>());
                if (first == seen.end()) invalid("a column that is like none before");
                values = first->second;
            }
            if (!values.is_array()) invalid("a column that is no list");
            for (const auto& value : values)
                if (value.is_object() && !value.empty()) invalid("members in a column");
            size += encode(values).size() * (values.size() == 1 ? 64 : 1);
            if (++number > 512 || size > 1 << 20) invalid("too many columns");
            own[pointer] = seen[table + pointer] = values;
        }
        tables[table] = rows_of_columns(own);
    }
    return tables;
}

inline void collect_leaves(const json& value, const std::string& pointer, std::vector<std::pair<std::string, json>>& out) {
    for (const auto& [name, item] : value.items()) {
        std::string escaped;
        for (char letter : name) escaped += letter == '~' ? "~0" : letter == '/' ? "~1" : std::string(1, letter);
        std::string here = pointer + "/" + escaped;
        if (item.is_null()) invalid("null in what is in columns");
        if (item.is_object() && !item.empty()) collect_leaves(item, here, out);
        else out.emplace_back(here, item);
    }
}

inline json columns_of_tables(const std::map<std::string, json>& tables) {
    json written = json::object();
    std::map<Bytes, std::string> seen;
    for (const auto& [table, rows] : tables) {
        std::map<std::string, json> columns;
        for (std::size_t row = 0; row < rows.size(); ++row) {
            std::vector<std::pair<std::string, json>> leaves;
            if (!rows[row].is_object()) invalid("a row that is no map");
            collect_leaves(rows[row], "", leaves);
            for (auto& [pointer, value] : leaves) {
                auto& column = columns[pointer];
                if (column.is_null()) column = json(std::vector<json>(rows.size()));
                column[row] = value;
            }
        }
        for (auto& [pointer, values] : columns) {
            bool same = true;
            for (const auto& value : values) same &= encode(value) == encode(values[0]);
            if (same) values = json::array({values[0]});
            std::string name = table + pointer;
            std::string first = values.size() > 1 ? seen.emplace(encode(values), name).first->second : name;
            written[table][pointer] = first == name ? values : json(first);
        }
    }
    return written;
}

inline const json& list(const json& value) {
    if (!value.is_array()) invalid("a list expected");
    return value;
}

inline json written_out(const json& body) {
    if (!has(body, "networks")) return body;
    auto tables = tables_of_columns(body["networks"]);
    json whole = body;
    whole.erase("networks");
    if (!tables.count("models")) invalid("no models in columns");
    if (!member(body, "inputs").is_object()) invalid("no inputs");
    whole["inputs"]["models"] = tables["models"];
    std::vector<json> checks = list(member(body, "checks"));
    for (const char* name : {"checks", "stand_in_checks"})
        if (tables.count(name)) checks.insert(checks.end(), tables[name].begin(), tables[name].end());
    auto key = [](const json& check) {
        std::vector<std::string> parts;
        for (const char* name : {"check", "subject", "key"}) {
            if (!member(check, name).is_string()) invalid("a check without " + std::string(name));
            parts.push_back(check[name]);
        }
        return parts;
    };
    std::stable_sort(checks.begin(), checks.end(), [&](const json& one, const json& other) { return key(one) < key(other); });
    whole["checks"] = checks;
    for (const char* name : {"engines", "descriptors"})
        if (tables.count(name)) whole[name] = tables[name];
    return whole;
}

inline json in_columns(const json& body) {
    const json& models = list(member(member(body, "inputs"), "models"));
    if (models.size() <= 8) return body;
    std::set<std::string> flown;
    for (const auto& engine : list(member(body, "engines"))) flown.insert(text(member(engine, "step_key")));
    std::map<std::string, json> tables{{"models", models}, {"engines", body["engines"]}};
    tables["checks"] = tables["stand_in_checks"] = json::array();
    if (has(body, "descriptors")) tables["descriptors"] = list(body["descriptors"]);
    json written = body, rest = json::array();
    for (const auto& check : list(member(body, "checks"))) {
        if (member(check, "check") != "engine") rest.push_back(check);
        else tables[flown.count(text(member(check, "key"))) ? "checks" : "stand_in_checks"].push_back(check);
    }
    for (const char* name : {"engines", "descriptors"}) written.erase(name);
    written["inputs"].erase("models");
    written["checks"] = rest;
    written["networks"] = columns_of_tables(tables);
    return written;
}

// --- parts ----------------------------------------------------------------------------------------

inline EngineEntry parse_engine(const json& document) {
    EngineEntry engine;
    engine.model = text(member(document, "model"));
    const std::string letters = "abcdefghijklmnopqrstuvwxyz0123456789";
    if (engine.model.empty() || engine.model.size() > 64 || letters.find(engine.model[0]) == std::string::npos ||
        engine.model.find_first_not_of(letters + "._-") != std::string::npos)
        invalid("the name of a model");
    engine.role = text(member(document, "role"));
    engine.artifact = artifact(member(document, "artifact"));
    digest_field(member(document, "step_key"));
    engine.backend = text(member(document, "backend"));
    engine.version = text(member(document, "version"));
    engine.target = text(member(document, "target"));
    text(member(document, "precision"));
    count(member(document, "batch"));
    for (const char* name : {"signature", "preprocessing"})
        if (!member(document, name).is_object()) invalid("a map expected");
    return engine;
}

inline std::vector<Level> parse_levels(const json& inputs) {
    if (!has(inputs, "chunks")) return {};
    require_members(inputs["chunks"], {"levels"});
    const json& named = list(inputs["chunks"]["levels"]);
    if (named.empty() || named.size() > 16) invalid("1 to 16 levels");
    std::vector<Level> levels;
    std::set<std::vector<std::uint64_t>> seen;
    for (const auto& each : named) {
        require_members(each, {"zoom", "k", "m", "tile_edge"});
        Level level{count(each["zoom"]), count(each["k"]), count(each["m"]), count(each["tile_edge"])};
        if (level.k > 7 || level.m < 1 || level.m > 31 || level.zoom > 25 || level.zoom + level.k > 25 || !level.tile_edge)
            invalid("no level of chunks");
        if (!seen.insert({level.zoom, level.k, level.m}).second) invalid("a level twice");
        levels.push_back(level);
    }
    return levels;
}

// Rule 9 for one network; adds the golden answers of a stand-in to the artifacts.
inline void require_embedded_by(const json& document, const json& engine, const json& inputs, Manifest& manifest) {
    if (!has(document, "golden")) {
        if (has(document, "step_key") && document["step_key"] != engine["step_key"]) invalid("embedded by another engine");
        return;
    }
    for (const char* name : {"step_key", "sha256"}) digest_field(member(document, name));
    for (const char* name : {"backend", "version", "target"}) text(member(document, name));
    manifest.others.push_back(artifact(document["golden"]));
    count(member(member(inputs, "checks"), "parity_ppb"));
}

inline std::uint64_t weight_of(const json& model) {
    std::uint64_t weight = has(model, "weight_ppm") ? count(model["weight_ppm"]) : 1000000;
    if (!weight) invalid("a network of weight 0");
    return weight;
}

// Rules 4 and 6 for networks and engines; returns the places of the descriptor networks among the engines.
inline std::vector<std::size_t> parse_engines(const json& body, const json& inputs, Manifest& manifest) {
    std::map<std::string, Bytes> asked, found;
    std::string before;
    for (const auto& model : list(member(inputs, "models"))) {
        if (!member(model, "name").is_string()) invalid("a model without a name");
        std::string name = model["name"];
        if (!asked.empty() && name <= before) invalid("models that are not in the order of their names");
        asked[before = name] = encode({member(model, "role"), member(model, "preprocessing")});
    }
    std::vector<std::size_t> described;
    before.clear();
    for (const auto& document : list(member(body, "engines"))) {
        auto engine = parse_engine(document);
        if (!found.emplace(engine.model, encode({document["role"], document["preprocessing"]})).second)
            invalid("an engine twice");
        if (engine.role == "descriptor") {
            if (!described.empty() && engine.model <= before) invalid("descriptor networks in another order");
            before = engine.model;
            described.push_back(manifest.engines.size());
        }
        manifest.engines.push_back(engine);
    }
    if (asked != found) invalid("other engines than asked for");
    if (described.empty()) invalid("no descriptor network");
    return described;
}

inline void parse_descriptors(const json& body, const json& inputs, const std::vector<std::size_t>& described,
                              Manifest& manifest) {
    const json& engines = body["engines"];
    digest_field(member(body, "vector_space"));
    std::vector<json> models;
    for (const auto& model : inputs["models"])
        if (model["role"] == "descriptor") models.push_back(model);
    for (const auto& model : models) manifest.weights.push_back(weight_of(model));
    if (models.size() == 1) manifest.weights.clear();
    if (described.size() == 1) {
        const json& index = body["index"];
        if (has(index, "embedded_by")) require_embedded_by(index["embedded_by"], engines[described[0]], inputs, manifest);
        return;
    }
    const json& named = list(member(body, "descriptors"));
    if (named.size() != described.size()) invalid("other descriptors than networks");
    json spaces = json::array();
    for (std::size_t at = 0; at < named.size(); ++at) {
        if (member(named[at], "model") != manifest.engines[described[at]].model) invalid("descriptors in another order");
        spaces.push_back({{"space", digest_field(member(named[at], "vector_space"))}, {"weight_ppm", manifest.weights[at]}});
        if (named[at].contains("embedded_by"))
            require_embedded_by(named[at]["embedded_by"], engines[described[at]], inputs, manifest);
    }
    if (digest("c10/joined-space/1", {{"networks", spaces}}) != body["vector_space"]) invalid("another vector space");
}

inline void parse_index(const json& document, Manifest& manifest) {
    manifest.index = artifact(member(document, "artifact"));
    manifest.blocks = artifact(member(document, "blocks"));
    digest_field(member(document, "step_key"));
    text(member(document, "kind"));
    text(member(document, "metric"));
    manifest.dimensions = count(member(document, "dimensions"));
    manifest.rows = count(member(document, "rows"));
    manifest.has_delta = has(document, "delta");
    if (!manifest.has_delta) return;
    const json& delta = document["delta"];
    require_members(delta, {"artifact", "added", "dropped"});
    manifest.delta = artifact(delta["artifact"]);
    manifest.added = count(delta["added"]);
    manifest.dropped = count(delta["dropped"]);
    if (manifest.added > manifest.rows) invalid("a delta of more rows than the index");
}

// Rules 7 and 8.
inline void parse_further(const json& body, const json& inputs, Manifest& manifest) {
    if (has(inputs, "carry") != has(body, "carried")) invalid("carried tiles that nobody asked for");
    manifest.carries = has(body, "carried");
    if (manifest.carries) {
        if (encode(inputs["carry"]) != "{\"tiles\":true}") invalid("carry");
        const json& carried = body["carried"];
        require_members(carried, {"packs", "tiles", "size"});
        manifest.packs = artifact(carried["packs"]);
        manifest.carried_tiles = count(carried["tiles"]);
        count(carried["size"]);
    }
    if (has(inputs, "proof") != has(body, "proof") || (has(body, "proof") && manifest.levels.empty()))
        invalid("a proof that nobody asked for");
    if (has(body, "proof")) manifest.others.push_back(artifact(body["proof"]));
    if (has(inputs, "area")) manifest.others.push_back(artifact(inputs["area"]));
    std::size_t networks = 0;
    bool normalises = false;
    for (const auto& model : inputs["models"])
        if (model["role"] == "descriptor") ++networks, normalises |= has(model["preprocessing"], "normalise");
    bool third = !manifest.levels.empty() || manifest.carries || has(inputs, "area") || networks > 1 || normalises;
    std::uint64_t expected = third ? 3 : manifest.has_delta ? 2 : 1;
    if (manifest.format != expected) invalid("another format than its content has");
}

inline void parse_envelope(const json& envelope, Manifest& manifest) {
    require_members(envelope, {"cache_id", "generation", "origin", "prev_head", "time_ns"});
    manifest.cache_id = text(envelope["cache_id"]);
    manifest.generation = count(envelope["generation"]);
    manifest.origin = count(envelope["origin"]);
    count(member(envelope["prev_head"], "seq"));
    digest_field(member(envelope["prev_head"], "chain"));
    count(envelope["time_ns"]);
}

inline void require_facts(const json& body) {
    const json& geography = member(body, "geography");
    for (const char* name : {"wanted", "present", "featureless", "skipped"}) count(member(geography, name));
    for (const auto& check : list(member(body, "checks"))) {
        for (const char* name : {"check", "subject", "key", "artifact"})
            if (!member(check, name).is_string()) invalid("a check without " + std::string(name));
        if (!member(check, "measured").is_object()) invalid("a check without measures");
    }
}

inline Manifest parse_manifest(const Bytes& raw) {
    if (raw.empty() || raw.back() != '\n') invalid("no line feed at the end");
    json document = decode(raw.substr(0, raw.size() - 1));
    require_members(document, {"body", "envelope", "format"});
    Manifest manifest;
    manifest.format = count(document["format"]);
    if (manifest.format < 1 || manifest.format > 3) invalid("another format");
    parse_envelope(document["envelope"], manifest);
    const json& written = document["body"];
    const json body = written_out(written);
    if ((manifest.format == 3 ? in_columns(body) : body) != written) invalid("columns in another form");
    const json& inputs = member(body, "inputs");
    manifest.identity = digest_field(member(body, "identity"));
    if (manifest.identity != digest("c10/build/1", inputs)) invalid("another identity");
    const json &tiles = member(body, "tiles"), &calibration = member(body, "calibration");
    manifest.others.push_back(artifact(calibration));
    if (member(member(inputs, "tiles"), "digest") != member(tiles, "digest") ||
        member(inputs, "calibration") != calibration["sha256"])
        invalid("another tile set or calibration");
    manifest.tiles = artifact(member(tiles, "table"));
    manifest.tile_count = count(member(tiles, "count"));
    manifest.tile_set = digest_field(tiles["digest"]);
    manifest.others.push_back(artifact(member(member(body, "geography"), "report")));
    require_facts(body);
    auto described = parse_engines(body, inputs, manifest);
    manifest.levels = parse_levels(inputs);
    parse_index(member(body, "index"), manifest);
    parse_further(body, inputs, manifest);
    parse_descriptors(body, inputs, described, manifest);
    manifest.body_sha256 = sha256(encode(written));
    return manifest;
}

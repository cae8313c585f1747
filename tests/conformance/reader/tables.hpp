// Tables, blocks, deltas and packs, as docs/format.md has them.
#pragma once

#include <cmath>
#include <tuple>

#include "base.hpp"

// Little-endian numbers at any place; reading beyond the end is damage.
struct Reader {
    const Bytes& data;
    std::uint64_t number(std::uint64_t at, int bytes) const {
        if (at > data.size() || data.size() - at < static_cast<std::size_t>(bytes)) damaged("a file that is too short");
        std::uint64_t found = 0;
        for (int byte = bytes - 1; byte >= 0; --byte)
            found = found << 8 | static_cast<unsigned char>(data[at + static_cast<std::size_t>(byte)]);
        return found;
    }
    std::uint64_t u64(std::uint64_t at) const { return number(at, 8); }
    std::uint32_t u32(std::uint64_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }
    std::string digest(std::uint64_t at) const {
        if (at > data.size() || data.size() - at < 32) damaged("a file that is too short");
        return hex(data.substr(at, 32));
    }
    bool finite(std::uint64_t at) const { return (u32(at) >> 23 & 255) != 255; }
    void magic(const std::string& expected) const {
        if (data.compare(0, 8, expected) != 0) damaged("another magic than " + expected);
    }
    // The number at byte 8, if so many rows of some size behind a header fill the file exactly.
    std::uint64_t rows(std::uint64_t header, std::uint64_t row) const {
        std::uint64_t n = u64(8);
        if (data.size() < header || n > data.size() || data.size() - header != n * row) damaged("a table of another size");
        return n;
    }
};

inline std::uint64_t aligned(std::uint64_t place) { return (place + 63) / 64 * 64; }

struct TileTable {
    std::vector<std::uint64_t> ids;
    std::vector<std::string> digests;
    std::vector<std::int32_t> captured;

    std::optional<std::size_t> row(std::uint64_t id) const {
        auto at = std::lower_bound(ids.begin(), ids.end(), id);
        if (at == ids.end() || *at != id) return std::nullopt;
        return static_cast<std::size_t>(at - ids.begin());
    }
    std::string set_digest() const {
        Bytes packed("c10/tile-set/1");
        packed += '\0';
        for (std::size_t at = 0; at < ids.size(); ++at) {
            for (int shift = 56; shift >= 0; shift -= 8) packed += static_cast<char>(ids[at] >> shift & 255);
            packed += unhex(digests[at]);
        }
        return sha256(packed);
    }
};

inline TileTable parse_tiles(const Bytes& data) {
    Reader reader{data};
    reader.magic("C10TILE1");
    std::uint64_t n = reader.rows(16, 44);
    TileTable table;
    for (std::uint64_t at = 0; at < n; ++at) {
        table.ids.push_back(reader.u64(16 + 8 * at));
        table.digests.push_back(reader.digest(16 + 8 * n + 32 * at));
        table.captured.push_back(static_cast<std::int32_t>(reader.u32(16 + 40 * n + 4 * at)));
        if (at && table.ids[at] <= table.ids[at - 1]) damaged("tiles in another order");
    }
    return table;
}

struct Cell {
    std::uint32_t zoom = 0, x = 0, y = 0, rows = 0;
    std::vector<Artifact> files;
    std::vector<std::uint64_t> weights;  // of several networks, millionths
};

inline std::vector<Cell> parse_cells(const Bytes& data, const std::string& magic) {
    Reader reader{data};
    std::uint64_t networks = 1, header = 16;
    std::vector<std::uint64_t> weights;
    if (magic == "C10BLCK1" && data.compare(0, 8, "C10BLCK2") == 0) {
        networks = reader.u64(16);
        if (networks < 2 || networks > 64) damaged("2 to 64 networks");
        header = 24 + 8 * networks;
        for (std::uint64_t at = 24; at < header; at += 8) weights.push_back(reader.u64(at));
        if (std::count(weights.begin(), weights.end(), 0)) damaged("a network of weight 0");
    } else {
        reader.magic(magic);
    }
    std::uint64_t n = reader.rows(header, 16 + 40 * networks), digests = header + 16 * n;
    std::uint64_t sizes = digests + 32 * n * networks;
    std::vector<Cell> cells;
    for (std::uint64_t at = 0; at < n; ++at) {
        auto column = [&](std::uint64_t which) { return reader.u32(header + 4 * (n * which + at)); };
        Cell cell{column(0), column(1), column(2), column(3), {}, weights};
        for (std::uint64_t network = 0; network < networks; ++network) {
            std::uint64_t place = at * networks + network;
            cell.files.push_back({reader.digest(digests + 32 * place), reader.u64(sizes + 8 * place)});
        }
        if (at) {
            const Cell& last = cells.back();
            if (std::tie(cell.zoom, cell.x, cell.y) <= std::tie(last.zoom, last.x, last.y)) damaged("cells in another order");
        }
        cells.push_back(cell);
    }
    return cells;
}

struct Delta {
    std::uint32_t dimensions = 0;
    std::vector<std::uint64_t> added, dropped;
};

inline void require_zero(const Bytes& data, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t at = from; at < to && at < data.size(); ++at)
        if (data[at]) damaged("bytes between columns that are not zero");
}

inline std::vector<std::uint64_t> parse_ids(const Reader& reader, std::uint64_t start, std::uint64_t n) {
    std::vector<std::uint64_t> ids;
    for (std::uint64_t at = 0; at < n; ++at) {
        ids.push_back(reader.u64(start + 8 * at));
        if (ids.back() >> 63 || (at && ids[at] <= ids[at - 1])) damaged("ids in another order");
    }
    return ids;
}

inline Delta parse_delta(const Bytes& data) {
    Reader reader{data};
    reader.magic("C10DELTA");
    Delta delta;
    delta.dimensions = reader.u32(12);
    std::uint64_t a = reader.u64(16), b = reader.u64(24), d = delta.dimensions;
    // No more rows than bytes: so the sums below stay small.
    if (reader.u32(8) != 1 || d < 1 || d > 65536 || a > data.size() || b > data.size()) damaged("no delta");
    std::uint64_t starts[4] = {64}, sizes[4] = {8 * a, 8 * b, 4 * a * d, 4 * b * d};
    for (int column = 0; column < 3; ++column) starts[column + 1] = aligned(starts[column] + sizes[column]);
    if (data.size() != starts[3] + sizes[3]) damaged("a delta of another size");
    require_zero(data, 32, 64);
    for (int column = 0; column < 3; ++column) require_zero(data, starts[column] + sizes[column], starts[column + 1]);
    delta.added = parse_ids(reader, starts[0], a);
    delta.dropped = parse_ids(reader, starts[1], b);
    for (std::uint64_t at = 0; at < (a * d); ++at)
        if (!reader.finite(starts[2] + 4 * at)) damaged("a number that is not finite");
    for (std::uint64_t at = 0; at < (b * d); ++at)
        if (!reader.finite(starts[3] + 4 * at)) damaged("a number that is not finite");
    return delta;
}

struct BlockRow {
    std::string digest;
    Bytes vector;
};

// The row of an id in a block, if it has one; the whole block is checked.
inline std::optional<BlockRow> find_in_block(const Bytes& data, const Cell& cell, std::uint64_t id) {
    Reader reader{data};
    reader.magic("C10BLOCK");
    std::uint64_t d = reader.u32(24), n = reader.u32(28);
    if (reader.u32(8) != 1 || reader.u32(12) != cell.zoom || reader.u32(16) != cell.x || reader.u32(20) != cell.y)
        damaged("the block of another cell");
    if (d < 1 || d > 65536 || n > 65536) damaged("no block");
    std::uint64_t digests = aligned(64 + 8 * n), texture = aligned(digests + 32 * n), vectors = aligned(texture + 4 * n);
    if (data.size() != vectors + 4 * n * d) damaged("a block of another size");
    require_zero(data, 32, 64);
    require_zero(data, 64 + 8 * n, digests);
    require_zero(data, digests + 32 * n, texture);
    require_zero(data, texture + 4 * n, vectors);
    std::optional<BlockRow> found;
    auto ids = parse_ids(reader, 64, n);
    for (std::uint64_t at = 0; at < n; ++at) {
        std::uint64_t x = ids[at] >> 25 & 0x1FFFFFF, y = ids[at] & 0x1FFFFFF;
        if (ids[at] >> 58 != cell.zoom || x >> 4 != cell.x || y >> 4 != cell.y) damaged("an id of another cell");
        if (!reader.finite(texture + 4 * at)) damaged("a number that is not finite");
        for (std::uint64_t column = 0; column < d; ++column)
            if (!reader.finite(vectors + 4 * (d * at + column))) damaged("a number that is not finite");
        if (ids[at] == id) found = BlockRow{reader.digest(digests + 32 * at), data.substr(vectors + 4 * d * at, 4 * d)};
    }
    return found;
}

// The bytes of a tile in a pack, if it has it.
inline std::optional<Bytes> find_in_pack(const Bytes& data, std::uint64_t id) {
    Reader reader{data};
    reader.magic("C10PACK1");
    std::uint64_t n = reader.u64(8);
    if (n < 1 || n > 65536 || data.size() < 16 + 16 * n) damaged("no pack");
    std::uint64_t start = 16 + 16 * n, begin = 0;
    std::optional<Bytes> found;
    auto ids = parse_ids(reader, 16, n);
    for (std::uint64_t at = 0; at < n; ++at) {
        std::uint64_t end = reader.u64(16 + 8 * n + 8 * at);
        if (end < begin || end > data.size() - start) damaged("tiles that do not fill the pack");
        if (ids[at] == id) found = data.substr(start + begin, end - begin);
        begin = end;
    }
    if (begin != data.size() - start) damaged("tiles that do not fill the pack");
    return found;
}

#include "worker/evaluation/task.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/evaluation/text_file.h"

namespace nibble::evaluation {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxChoices = 64;

absl::Status BadLine(const TextMember& member, int64_t line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(member.name, ":", line, ": ", what));
}

// The next line without its end; false at the end of the text.
bool NextLine(absl::string_view* text, absl::string_view* line) {
  if (text->empty()) return false;
  const size_t end = text->find('\n');
  *line = text->substr(0, end);
  text->remove_prefix(end == absl::string_view::npos ? text->size() : end + 1);
  if (absl::EndsWith(*line, "\r")) line->remove_suffix(1);
  return true;
}

// Reads fields of one line; what is wrong is an empty result and a reason.
struct LineReader {
  const Json& json;
  std::string problem;

  std::string Text(const char* name) {
    const auto field = json.find(name);
    if (field != json.end() && field->is_string()) return field->get<std::string>();
    if (problem.empty()) problem = absl::StrCat("no string \"", name, "\"");
    return "";
  }
  std::vector<std::string> Texts(const char* name) {
    std::vector<std::string> texts;
    const auto field = json.find(name);
    if (field != json.end() && field->is_array() && field->size() <= kMaxChoices) {
      for (const Json& text : *field) {
        if (text.is_string()) texts.push_back(text.get<std::string>());
      }
      if (!texts.empty() && texts.size() == field->size()) return texts;
    }
    if (problem.empty()) {
      problem = absl::StrCat("\"", name, "\" is no list of 1 to ", kMaxChoices, " strings");
    }
    return {};
  }
  int64_t Gold(size_t choices) {
    const auto field = json.find("gold");
    if (field != json.end() && field->is_number_unsigned() && field->get<uint64_t>() < choices) {
      return field->get<int64_t>();
    }
    if (problem.empty()) problem = absl::StrCat("\"gold\" is not 0 to ", choices, " less 1");
    return 0;
  }
};

Choice Joined(const std::string& context, const std::string& choice) {
  return Choice{context, absl::StrCat(" ", choice), CodePoints(choice)};
}

// {"query", "choices", "gold"}.
void ReadQuestion(const Task& task, LineReader& line, Item* item) {
  std::string context = line.Text("query");
  if (task.name == "arc_easy" || task.name == "arc_challenge" || task.name == "piqa") {
    context = absl::StrCat(absl::StripTrailingAsciiWhitespace(context), "\nAnswer:");
  } else if (task.name == "boolq") {
    absl::StrAppend(&context, "\nAnswer:");
  }
  const std::vector<std::string> choices = line.Texts("choices");
  for (const std::string& choice : choices) item->choices.push_back(Joined(context, choice));
  item->gold = line.Gold(choices.size());
}

// {"context_options", "continuation", "gold"}: the same end after different beginnings.
void ReadBeginnings(LineReader& line, Item* item) {
  const std::string continuation = line.Text("continuation");
  const std::vector<std::string> contexts = line.Texts("context_options");
  for (const std::string& context : contexts) {
    item->choices.push_back(Joined(context, continuation));
  }
  item->gold = line.Gold(contexts.size());
}

// {"sentence_good", "sentence_bad", "UID"}.
void ReadPair(LineReader& line, Item* item) {
  for (const char* name : {"sentence_good", "sentence_bad"}) {
    const std::string sentence = line.Text(name);
    item->choices.push_back(Choice{"", sentence, CodePoints(sentence)});
  }
  item->group = line.Text("UID");
}

// {"context", "continuation"}, or {"text"}, whose last word is the continuation.
void ReadLastWord(LineReader& line, Item* item) {
  if (line.json.contains("text")) {
    const std::string text = line.Text("text");
    const size_t space = text.rfind(' ');
    if (space == std::string::npos || space == 0 || space + 1 == text.size()) {
      line.problem = "\"text\" has no last word";
      return;
    }
    item->choices.push_back(Joined(text.substr(0, space), text.substr(space + 1)));
    return;
  }
  const std::string context = line.Text("context");
  item->choices.push_back(Joined(context, line.Text("continuation")));
}

absl::Status ReadJsonItem(const Task& task, const TextMember& member, int64_t number,
                          absl::string_view text, Item* item) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return BadLine(member, number, "not a JSON object");
  LineReader line{json, ""};
  if (task.kind == TaskKind::kMinimalPair) {
    ReadPair(line, item);
  } else if (task.kind == TaskKind::kLastWord) {
    ReadLastWord(line, item);
  } else if (json.contains("context_options")) {
    ReadBeginnings(line, item);
  } else {
    ReadQuestion(task, line, item);
  }
  if (!line.problem.empty()) return BadLine(member, number, line.problem);
  item->id = absl::StrCat(number);
  return absl::OkStatus();
}

absl::Status ReadJsonItems(const Task& task, const TextMember& member, int64_t limit,
                           std::vector<Item>* items) {
  absl::string_view rest = member.text, text;
  int64_t read = 0;
  for (int64_t number = 1; (limit == 0 || read < limit) && NextLine(&rest, &text); ++number) {
    if (text.size() > kMaxLineBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(member.name, ":", number, ": over ", kMaxLineBytes, " bytes"));
    }
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    NIBBLE_RETURN_IF_ERROR(ReadJsonItem(task, member, number, text, &items->emplace_back()));
    ++read;
  }
  return absl::OkStatus();
}

// Six lines an item: context, number of the right ending from 0, four endings.
absl::Status ReadSixLineItems(const TextMember& member, int64_t limit, std::vector<Item>* items) {
  absl::string_view rest = member.text, context;
  int64_t number = 0;
  while ((limit == 0 || static_cast<int64_t>(items->size()) < limit) && NextLine(&rest, &context)) {
    ++number;
    absl::string_view gold, ending;
    Item item;
    item.id = absl::StrCat(items->size() + 1);
    if (!NextLine(&rest, &gold) || !absl::SimpleAtoi(gold, &item.gold) || item.gold < 0 ||
        item.gold > 3) {
      return BadLine(member, number + 1, "the number of the right ending is not 0 to 3");
    }
    for (int i = 0; i < 4; ++i) {
      if (!NextLine(&rest, &ending) || ending.empty()) {
        return BadLine(member, number + 2 + i, "an ending is missing");
      }
      item.choices.push_back(Joined(std::string(context), std::string(ending)));
    }
    number += 5;
    items->push_back(std::move(item));
  }
  return absl::OkStatus();
}

bool LooksLikeJson(absl::string_view text) {
  return absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{");
}

}  // namespace

const std::vector<Task>& AllTasks() {
  using Kind = TaskKind;
  static const auto* const tasks = new std::vector<Task>{
      {"lambada_openai", Kind::kLastWord, "lambada_openai.jsonl.zst"},
      {"lambada_standard", Kind::kLastWord, "lambada_test.jsonl"},
      {"hellaswag", Kind::kMultipleChoice, "hellaswag_val_full.txt.bz2", true},
      {"arc_easy", Kind::kMultipleChoice, "arc_easy.jsonl.zst", true},
      {"arc_challenge", Kind::kMultipleChoice, "arc_challenge.jsonl.zst", true},
      {"piqa", Kind::kMultipleChoice, "piqa.jsonl.zst", true},
      {"winogrande", Kind::kMultipleChoice, "winogrande.jsonl.zst"},
      {"boolq", Kind::kMultipleChoice, "boolq.jsonl.zst"},
      {"copa", Kind::kMultipleChoice, "copa.jsonl.zst"},
      {"openbookqa", Kind::kMultipleChoice, "openbook_qa.jsonl.zst", true},
      {"blimp", Kind::kMinimalPair, "blimp.tar.zst"},
      {"text", Kind::kText, ""},
      {"information_capacity", Kind::kInformationCapacity, ""},
  };
  return *tasks;
}

const Task* FindTask(absl::string_view name) {
  for (const Task& task : AllTasks()) {
    if (task.name == name) return &task;
  }
  return nullptr;
}

absl::StatusOr<std::vector<Item>> ReadItems(const Task& task, const std::string& path,
                                            int64_t limit) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<TextMember> members, ReadTextFile(path));
  std::vector<Item> items;
  for (const TextMember& member : members) {
    NIBBLE_RETURN_IF_ERROR(task.name == "hellaswag" && !LooksLikeJson(member.text)
                               ? ReadSixLineItems(member, limit, &items)
                               : ReadJsonItems(task, member, limit, &items));
  }
  if (items.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no items"));
  return items;
}

absl::StatusOr<std::vector<std::string>> ReadDocuments(const std::string& path, int64_t limit) {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<TextMember> members, ReadTextFile(path));
  std::vector<std::string> documents;
  const bool lines = absl::StrContains(path, ".jsonl") || absl::StrContains(path, ".ndjson");
  for (TextMember& member : members) {
    if (!lines) {
      documents.push_back(std::move(member.text));
      continue;
    }
    absl::string_view rest = member.text, text;
    for (int64_t number = 1; NextLine(&rest, &text); ++number) {
      if (limit > 0 && static_cast<int64_t>(documents.size()) >= limit) break;
      if (absl::StripAsciiWhitespace(text).empty()) continue;
      const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
      if (!json.is_object()) return BadLine(member, number, "not a JSON object");
      LineReader line{json, ""};
      documents.push_back(line.Text("text"));
      if (!line.problem.empty()) return BadLine(member, number, line.problem);
    }
  }
  if (documents.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no text"));
  return documents;
}

absl::StatusOr<LoadedTask> LoadTask(const Task& task, const std::string& path, int64_t limit) {
  LoadedTask loaded;
  loaded.task = &task;
  loaded.path = path;
  if (task.kind == TaskKind::kText || task.kind == TaskKind::kInformationCapacity) {
    NIBBLE_ASSIGN_OR_RETURN(loaded.documents, ReadDocuments(path, limit));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(loaded.items, ReadItems(task, path, limit));
  }
  return loaded;
}

int64_t CodePoints(absl::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

}  // namespace nibble::evaluation

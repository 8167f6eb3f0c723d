import type { Argument, Command, Option } from 'commander'

/** The text of `docs/reference/cli.md`: commands and options from the program, and what each prints with `--json`. */
export function cliReference(program: Command, documents: Readonly<Record<string, string>>): string {
  return `# Commands

\`holdfast\` attaches to the fleet that runs on the data directory, which the configuration names; \`holdfast up\` is what runs it.
Results go to stdout, progress and logs to stderr. With \`--json\` stdout has one JSON document and nothing else, errors included:

\`\`\`json
{ "error": { "code": "unknown_tenant", "category": "not_found", "retry": "never", "message": "...", "hint": "...", "detail": {} } }
\`\`\`

| exit code | category of the [error](errors.md) |
|---|---|
| 0 | done |
| 1 | internal |
| 2 | invalid; also a command line that cannot be parsed |
| 3 | denied |
| 4 | not_found |
| 5 | conflict |
| 6 | unavailable |
| 7 | ambiguous: ask for the outcome with \`holdfast txn\` and the id in the message |
| 8 | check_failed: also of a command whose document tells of a check that failed |

In documents, timestamps are in text form (\`2026-04-02T10:00:05.120Z+0003\`), positions as PostgreSQL writes them (\`16/B374D848\`), and
\`int8\`, \`numeric\` and \`bytea\` of rows are strings. \`sql\` tells its rows as they are [told over HTTP](http.md#values).

A test holds this page equal to the program and writes it anew with
\`npx vitest run --project unit src/cli/program.test.ts --update\`.

Options of every command:

${optionRows(visibleOptions(program))}
${commandsOf(program)
  .map(({ path, command }) => section(path, command, documents[path]))
  .join('\n')}`
}

export interface NamedCommand {
  /** Without the name of the program, e.g. `archive status`. */
  readonly path: string
  readonly command: Command
}

/** Every command that does something, in the order of the help; hidden ones are for programs. */
export function commandsOf(parent: Command, before = ''): NamedCommand[] {
  const help = parent.createHelp()
  return help
    .visibleCommands(parent)
    .filter((command) => command.name() !== 'help')
    .flatMap((command) => {
      const path = `${before}${command.name()}`
      const within = commandsOf(command, `${path} `)
      return doesSomething(command) ? [{ path, command }, ...within] : within
    })
}

/** A group of commands has no options of its own, but for one that does something by itself as well. */
function doesSomething(command: Command): boolean {
  return command.commands.length === 0 || command.options.length > 0
}

function section(path: string, command: Command, document: string | undefined): string {
  const usage = ['holdfast', path, ...command.registeredArguments.map(argumentText)].join(' ')
  const options = visibleOptions(command)
  const rows = [
    ...command.registeredArguments
      .filter(({ description }) => description !== '')
      .map((argument) => row(argument.name(), argument.description, argument.defaultValue)),
    ...options.map(optionRow),
  ]
  const table = rows.length === 0 ? '' : `\n| | |\n|---|---|\n${rows.join('\n')}\n`
  return `## \`${usage}\`

${sentence(command.description())}
${table}
With \`--json\`: ${document ?? 'nothing.'}
`
}

function argumentText(argument: Argument): string {
  const name = `${argument.name()}${argument.variadic ? '...' : ''}`
  return argument.required ? `<${name}>` : `[${name}]`
}

function visibleOptions(command: Command): Option[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .filter(({ long }) => long !== '--help')
}

function optionRows(options: readonly Option[]): string {
  return `| | |\n|---|---|\n${options.map(optionRow).join('\n')}\n`
}

function optionRow({ flags, description, defaultValue, mandatory }: Option): string {
  return row(flags, `${description}${mandatory ? '; required' : ''}`, defaultValue)
}

function row(what: string, description: string, defaultValue: unknown): string {
  const otherwise = typeof defaultValue === 'string' ? `; \`${defaultValue}\` when left out` : ''
  return `| \`${what}\` | ${description}${otherwise} |`
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

import { posix } from 'node:path'
import { blanked, importsOf } from './source-text.ts'

/**
 * The rules of this repository, as absences. Each is a pure function over one file, with samples that break it and
 * samples that come close and do not: a rule that cannot fail is no rule.
 */
export interface SourceFile {
  /** From the root of the repository, with forward slashes. */
  readonly path: string
  readonly text: string
}

export interface Rule {
  readonly name: string
  readonly appliesTo: (path: string) => boolean
  /** What is wrong, one line each. */
  readonly check: (file: SourceFile) => string[]
  readonly broken: readonly SourceFile[]
  readonly kept: readonly SourceFile[]
}

const floors: Readonly<Record<string, number>> = {
  base: 0,
  hlc: 1,
  postgres: 1,
  // Runs in a browser too.
  hops: 1,
  session: 2,
  directory: 2,
  archive: 3,
  transaction: 4,
  ledger: 4,
  reading: 5,
  adapters: 5,
  failover: 5,
  recovery: 6,
  evidence: 7,
  fleet: 8,
  http: 9,
  // The commands start the HTTP servers; nothing imports a command.
  cli: 10,
}

/** Types alone: the names that every mechanism above the clock speaks in. It stands one floor below its folder. */
const names = 'src/directory/topology.ts'

/** What the node or the browser starts; nothing imports these. */
const programs = ['src/cli/cli.ts']

const typescript = (path: string) => path.endsWith('.ts')
const isTest = (path: string) => path.endsWith('.test.ts')
const source = (path: string) => path.startsWith('src/') && typescript(path)
const shipped = (path: string) => source(path) && !isTest(path)
const shippedBut =
  (...allowed: string[]) =>
  (path: string) =>
    shipped(path) && !allowed.some((prefix) => path.startsWith(prefix))

const file = (path: string, text: string): SourceFile => ({ path, text })

/** The lines of the code, without comments and strings, that match. */
function findInCode({ text }: SourceFile, pattern: RegExp, what: string): string[] {
  return findInText({ path: '', text: blanked(text, 'comments and strings') }, pattern, what)
}

function findInText({ text }: SourceFile, pattern: RegExp, what: string): string[] {
  return text.split('\n').flatMap((line, index) => (pattern.test(line) ? [`line ${index + 1}: ${what}`] : []))
}

function floorOf(path: string): number | undefined {
  if (path === names) return 1
  const [, folder, inside] = path.split('/')
  return folder === undefined ? undefined : inside === undefined ? 11 : floors[folder]
}

const importsGoDown: Rule = {
  name: 'imports only go down the floors, and on one floor stay in their folder',
  appliesTo: source,
  check: ({ path, text }) =>
    importsOf(text).flatMap(({ from }) => {
      const target = posix.join(posix.dirname(path), from)
      if (!from.startsWith('.') || !target.startsWith('src/')) return []
      const [here, there] = [floorOf(path), floorOf(target)]
      if (here === undefined || there === undefined) return [`${here === undefined ? path : target} is on no floor`]
      const sameFolder = path.split('/')[1] === target.split('/')[1]
      return here > there || sameFolder ? [] : [`imports ${target}, floor ${there}, from floor ${here}`]
    }),
  broken: [
    file('src/hlc/hlc.ts', "import { x } from '../session/token.ts'"),
    file('src/http/http.ts', "import { x } from '../cli/up.ts'"),
    file('src/session/token.ts', "import type { Directory } from '../directory/directory.ts'"),
    file('src/hlc/hlc.ts', "import type {\n  X,\n  Y,\n} from '../postgres/lsn.ts'"),
    file('src/base/errors.ts', "const late = await import('../hlc/hlc.ts')"),
    file('src/postgres/server/x.ts', "export { y } from '../../fleet/config.ts'"),
    file('src/common/x.ts', "import { y } from '../base/errors.ts'"),
    file('src/fleet/x.ts', "import { y } from '../index.ts'"),
  ],
  kept: [
    file('src/session/token.ts', "import { hlc } from '../hlc/hlc.ts'"),
    file('src/session/token.ts', "import type { ShardName } from '../directory/topology.ts'"),
    file('src/directory/directory.ts', "import { policy } from './policy.ts'"),
    file('src/postgres/server/x.ts', "import { y } from '../lsn.ts'"),
    file('src/index.ts', "export { openFleet } from './fleet/fleet.ts'"),
    file('src/hlc/hlc.ts', "// import { x } from '../fleet/config.ts'"),
    file('src/fleet/x.test.ts', "import { y } from '../../test/support/y.ts'"),
  ],
}

const oneClock: Rule = {
  name: 'only base/clock.ts reads time',
  appliesTo: shippedBut('src/base/clock.ts'),
  check: (source) =>
    findInCode(
      source,
      /\bDate\.now\b|new Date\(\s*\)|\bDate\(\)|\bperformance\b|\bhrtime\b/,
      'reads time; take a Clock',
    ),
  broken: [
    file('src/fleet/x.ts', 'const now = Date.now()'),
    file('src/fleet/x.ts', 'const now = new Date()'),
    file('src/fleet/x.ts', 'const now = performance.now()'),
    file('src/fleet/x.ts', 'const now = process.hrtime.bigint()'),
    file('src/fleet/x.ts', 'const text = `at ${Date.now()}`'),
  ],
  kept: [
    file('src/hlc/hlc.ts', 'const text = new Date(wallMs).toISOString()'),
    file('src/fleet/x.ts', '// Date.now() would not do.'),
    file('src/fleet/x.ts', "const text = 'Date.now()'"),
  ],
}

const oneRandomness: Rule = {
  name: 'only base/random.ts makes randomness',
  appliesTo: shippedBut('src/base/random.ts'),
  check: (source) => [
    ...findInCode(
      source,
      /\bMath\.random\b|\bcrypto\.(random|getRandom)/,
      'makes randomness; take it from base/random.ts',
    ),
    ...findInText(
      { path: '', text: blanked(source.text, 'comments') },
      /import .*\brandom\w*.* from 'node:crypto'|from 'uuidv7'/,
      'imports randomness; take it from base/random.ts',
    ),
  ],
  broken: [
    file('src/fleet/x.ts', 'const x = Math.random()'),
    file('src/fleet/x.ts', "import { createHash, randomBytes } from 'node:crypto'"),
    file('src/fleet/x.ts', 'const x = crypto.randomUUID()'),
    file('src/fleet/x.ts', "import { uuidv7 } from 'uuidv7'"),
  ],
  kept: [
    file('src/fleet/x.ts', "import { createHash } from 'node:crypto'"),
    file('src/fleet/x.ts', "import { randomBytes } from '../base/random.ts'"),
  ],
}

const oneDriver: Rule = {
  name: 'only postgres/ imports the driver',
  appliesTo: shippedBut('src/postgres/'),
  check: ({ text }) =>
    importsOf(text).flatMap(({ from }) => (/^pg($|[-/])|^postgres$/.test(from) ? [`imports ${from}`] : [])),
  broken: [
    file('src/fleet/x.ts', "import pg from 'pg'"),
    file('src/fleet/x.ts', "import type { Pool } from 'pg'"),
    file('src/fleet/x.ts', "import { from } from 'pg-copy-streams'"),
  ],
  kept: [file('src/fleet/x.ts', "import { Connection } from '../postgres/connection.ts'")],
}

const oneEnvironment: Rule = {
  name: 'only fleet/ and cli/ read the environment',
  appliesTo: shippedBut('src/fleet/', 'src/cli/'),
  check: (source) => findInCode(source, /\bprocess\.(env|argv)\b/, 'reads the environment; take it as an argument'),
  broken: [file('src/http/x.ts', 'const port = process.env.PORT'), file('src/http/x.ts', 'main(process.argv)')],
  kept: [file('src/http/x.ts', "process.on('exit', stop)")],
}

const noBarrels: Rule = {
  name: 'no barrels inside src/',
  appliesTo: (path) => source(path) && !['src/index.ts', 'src/testing.ts', 'src/hops.ts'].includes(path),
  check: ({ path, text }) => [
    ...(path.endsWith('/index.ts') ? ['is a barrel; name the file after what it holds'] : []),
    ...importsOf(text).flatMap(({ kind, from }) => (kind === 'export' ? [`re-exports ${from}`] : [])),
  ],
  broken: [
    file('src/fleet/index.ts', 'export const x = 1'),
    file('src/fleet/x.ts', "export * from './y.ts'"),
    file('src/fleet/x.ts', "export { y } from './y.ts'"),
    file('src/fleet/x.ts', "export type {\n  y,\n} from './y.ts'"),
  ],
  kept: [file('src/fleet/x.ts', "export const y = 'from ./y.ts'"), file('src/fleet/x.ts', 'export { y }')],
}

const noWorkAtImport: Rule = {
  name: 'no work at import',
  appliesTo: (path) => shipped(path) && !programs.includes(path),
  check: ({ text }) => {
    const declaration =
      /^(import|export|const|let|var|function|async function|class|abstract class|type|interface|declare|enum)\b/
    return blanked(text, 'comments and strings')
      .split('\n')
      .flatMap((line, index) => {
        if (/^\s|^$|^[})\]`]/.test(line)) return []
        const works = !declaration.test(line) || /^(export )?(const|default)\b.*\bawait\b/.test(line)
        return works ? [`line ${index + 1}: does work when it is imported`] : []
      })
  },
  broken: [
    file('src/fleet/x.ts', 'start()'),
    file('src/fleet/x.ts', 'const x = await read()'),
    file('src/fleet/x.ts', "process.on('exit', stop)"),
    file('src/fleet/x.ts', 'if (x) start()'),
    file('src/fleet/x.ts', 'for (const x of y) start(x)'),
  ],
  kept: [
    file('src/fleet/x.ts', 'const x = { a: 1 }\nfunction f() {\n  start()\n}\nexport const y = z.object({\n  a,\n})\n'),
    file('src/fleet/x.ts', 'const text = `\nselect 1\n`'),
    file('src/cli/cli.ts', 'await main()'),
  ],
}

const noModuleState: Rule = {
  name: 'no mutable module state',
  appliesTo: shipped,
  check: (source) =>
    findInCode(
      source,
      /^(export )?(let|var)\b|^(export )?const \w+(: (Map|Set|WeakMap|WeakSet|\w+\[\])\b.*)? = (new (Map|Set|WeakMap|WeakSet)\b|\[\]|\{\}$)/,
      'is state of the module; give it to an owner, or a readonly type',
    ),
  broken: [
    file('src/fleet/x.ts', 'let count = 0'),
    file('src/fleet/x.ts', 'export var count = 0'),
    file('src/fleet/x.ts', 'const cache = new Map<string, string>()'),
    file('src/fleet/x.ts', 'const cache: Map<string, string> = new Map()'),
    file('src/fleet/x.ts', 'const seen = []'),
  ],
  kept: [
    file('src/fleet/x.ts', 'function f() {\n  let count = 0\n  const cache = new Map()\n}'),
    file('src/fleet/x.ts', "const known: ReadonlySet<string> = new Set(['a'])"),
  ],
}

const noEscapes: Rule = {
  name: 'no any, no double cast, no non-null assertion, no silenced compiler or linter',
  appliesTo: typescript,
  check: (source) => [
    ...findInCode(source, /[:<|&]\s*any\b(?!\s*[(:,])|\bas any\b|\bany\[\]|, any>/, 'any'),
    ...findInCode(source, /\bas unknown as\b/, 'a double cast'),
    ...findInCode(source, /[\w)\]]!(?!=)/, 'a non-null assertion'),
    ...findInText(
      source,
      new RegExp(`@ts-${'ignore'}|@ts-${'expect-error'}|@ts-${'nocheck'}`),
      'silences the compiler',
    ),
    ...findInText(source, new RegExp(`(oxlint|eslint)-${'disable'}|biome-${'ignore'}`), 'silences the linter'),
  ],
  broken: [
    file('src/fleet/x.ts', 'const x: any = 1'),
    file('src/fleet/x.ts', 'f<any>()'),
    file('src/fleet/x.ts', 'let x: Record<string, any>'),
    file('src/fleet/x.ts', 'function f(list: any[]) {}'),
    file('src/fleet/x.ts', 'const x = y as any'),
    file('src/fleet/x.ts', 'const x = y as unknown as Z'),
    file('src/fleet/x.ts', 'const x = y!.z'),
    file('src/fleet/x.ts', 'const x = f()!'),
    file('src/fleet/x.ts', 'const x = list[0]!\n'),
    file('test/x.ts', `// @ts-${'ignore'}`),
    file('test/x.ts', `// oxlint-${'disable'}-next-line`),
  ],
  kept: [
    file('src/fleet/x.ts', 'const x = y !== z && !a && await Promise.any(all)'),
    file('src/fleet/x.ts', "// any of them\nconst text = 'any! as unknown as'"),
    file('src/fleet/x.ts', 'const parts = text.match(/a!b|"any"/)'),
    file('src/fleet/x.ts', 'const x = AbortSignal.any([a, b])'),
    file('src/fleet/x.ts', 'const any = fc.string()\nfc.property(any, any, (a, b) => a === b)'),
  ],
}

const linesMax = 500

const shortFiles: Rule = {
  name: `no file is longer than ${linesMax} lines`,
  appliesTo: (path) => typescript(path) || path.endsWith('.sql'),
  check: ({ text }) => {
    const lines = text.trimEnd().split('\n').length
    return lines > linesMax ? [`has ${lines} lines`] : []
  },
  broken: [file('src/fleet/x.ts', 'x\n'.repeat(linesMax + 1))],
  kept: [file('src/fleet/x.ts', 'x\n'.repeat(linesMax))],
}

const noConsole: Rule = {
  name: 'no console outside cli/',
  appliesTo: (path) => source(path) && !path.startsWith('src/cli/'),
  check: (source) => findInCode(source, /\bconsole\.|\bprocess\.(stdout|stderr)\b/, 'writes to the terminal'),
  broken: [file('src/fleet/x.ts', "console.log('up')"), file('src/fleet/x.ts', "process.stderr.write('up')")],
  kept: [file('src/http/x.ts', "serve('/console.html')"), file('src/http/x.ts', 'const { console } = paths')],
}

const nothingLeftToDo: Rule = {
  name: 'nothing is left to do later',
  appliesTo: () => true,
  check: (source) => findInText(source, new RegExp(`\\b(TO${'DO'}|FIX${'ME'}|XX${'X'})\\b`), 'leaves something to do'),
  broken: [file('docs/x.md', `TO${'DO'}: write`), file('sql/x.sql', `-- FIX${'ME'}`)],
  kept: [file('docs/x.md', 'A list of to-dos.')],
}

const noMachinePaths: Rule = {
  name: 'no path of one machine',
  appliesTo: () => true,
  check: (source) => findInText(source, /(^|[\s'"`(=])\/(work|home|Users|root)\//, 'names a folder of one machine'),
  broken: [
    file('src/fleet/x.ts', ['const x = "', 'work', 'x"'].join('/')),
    file('docs/x.md', ['cd ', 'home', 'me'].join('/')),
  ],
  kept: [file('docs/x.md', 'see src/work/x and /var/lib'), file('test/x.ts', 'join(tmpdir(), name)')],
}

const namedSqlStates: Rule = {
  name: 'SQLSTATEs of Holdfast have names, in postgres/sqlstate.ts alone',
  appliesTo: shippedBut('src/postgres/sqlstate.ts'),
  check: ({ text }) =>
    findInText({ path: '', text: blanked(text, 'comments') }, /['"]HF\d{3}['"]/, 'an SQLSTATE without its name'),
  broken: [file('src/fleet/x.ts', "if (error.sqlState === 'HF003') retry()")],
  kept: [file('src/fleet/x.ts', 'if (error.sqlState === sqlState.placementStale) retry() // HF003')],
}

export const rules: readonly Rule[] = [
  importsGoDown,
  oneClock,
  oneRandomness,
  oneDriver,
  oneEnvironment,
  noBarrels,
  noWorkAtImport,
  noModuleState,
  noEscapes,
  shortFiles,
  noConsole,
  nothingLeftToDo,
  noMachinePaths,
  namedSqlStates,
]

/** Folders of src/ without their front door, `<folder>/<folder>.ts`. The base is a floor, not a mechanism. */
export function foldersWithoutFrontDoor(paths: readonly string[]): string[] {
  const shippedPaths = paths.filter(shipped)
  const folders = new Set(shippedPaths.flatMap((path) => /^src\/([^/]+)\//.exec(path)?.[1] ?? []))
  return [...folders].filter((folder) => folder !== 'base' && !shippedPaths.includes(`src/${folder}/${folder}.ts`))
}

/** The SQLSTATEs of class HF that SQL raises. */
export function raisedSqlStates(files: readonly SourceFile[]): Set<string> {
  const sql = files.filter(({ path }) => path.startsWith('sql/') && path.endsWith('.sql'))
  return new Set(
    sql.flatMap(({ text }) => [...text.replaceAll(/--.*/g, '').matchAll(/'(HF\d{3})'/g)].map((m) => m[1] ?? '')),
  )
}

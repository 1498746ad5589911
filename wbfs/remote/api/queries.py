"""The GraphQL texts: lean ones that W&B's schema certainly serves, since its SDK asks the same."""

from __future__ import annotations

FILES_PAGE_SIZE = 1000

FEATURES = "query ServerFeaturesQuery { serverInfo { features { name isEnabled } } }"

VIEWER = """
query Viewer { viewer { id entity username teams { edges { node { name } } } } }
"""

ENTITY = "query Entity($entity: String!) { entity(name: $entity) { id name } }"

ORGANIZATIONS = """
query FetchOrgInfoFromEntity($entity: String!) {
  entity(name: $entity) {
    organization { name orgEntity { name } }
    user { organizations { name orgEntity { name } } }
  }
}
"""

PROJECTS = """
query GetProjects($entity: String!, $cursor: String, $perPage: Int) {
  models(entityName: $entity, after: $cursor, first: $perPage) {
    pageInfo { endCursor hasNextPage }
    edges { node { name entityName createdAt } }
  }
}
"""

PROJECT = """
query GetProject($entity: String!, $project: String!) {
  project(name: $project, entityName: $entity) { name entityName createdAt }
}
"""

_COLLECTION_FIELDS = "__typename name createdAt type: defaultArtifactType { name }"

COLLECTIONS = f"""
query ProjectArtifactCollections(
  $entity: String!, $project: String!, $cursor: String, $perPage: Int
) {{
  project(name: $project, entityName: $entity) {{
    artifactCollections(after: $cursor, first: $perPage) {{
      pageInfo {{ endCursor hasNextPage }}
      edges {{ node {{ {_COLLECTION_FIELDS} }} }}
    }}
  }}
}}
"""

COLLECTION = f"""
query ProjectArtifactCollection($entity: String!, $project: String!, $collection: String!) {{
  project(name: $project, entityName: $entity) {{
    artifactCollection(name: $collection) {{ {_COLLECTION_FIELDS} }}
  }}
}}
"""

_PLACE = "artifactCollection { __typename name project { name entity { name } } }"


def _artifact_fields(with_algorithm: bool) -> str:
    """A server without the feature does not know the field."""
    algorithm = "digestAlgorithm" if with_algorithm else ""
    return f"""
      id versionIndex state size digest {algorithm} fileCount createdAt description metadata
      artifactType {{ name }} tags {{ name }}
    """


_MEMBERSHIPS = f"""
  artifactMemberships {{
    edges {{ node {{ versionIndex createdAt aliases {{ alias }} {_PLACE} }} }}
  }}
"""


def versions(*, with_algorithm: bool, with_memberships: bool) -> str:
    """Return the query for a collection's versions, with their aliases in all collections."""
    memberships = _MEMBERSHIPS if with_memberships else ""
    return f"""
    query ProjectArtifacts(
      $entity: String!, $project: String!, $type: String!, $collection: String!,
      $cursor: String, $perPage: Int, $filters: JSONString
    ) {{
      project(name: $project, entityName: $entity) {{
        artifactType(name: $type) {{
          artifactCollection(name: $collection) {{
            __typename
            artifacts(after: $cursor, first: $perPage, filters: $filters) {{
              pageInfo {{ endCursor hasNextPage }}
              edges {{
                version
                node {{
                  {_artifact_fields(with_algorithm)} aliases {{ alias {_PLACE} }} {memberships}
                }}
              }}
            }}
          }}
        }}
      }}
    }}
    """


def membership(*, with_algorithm: bool) -> str:
    """Return the query for `collection:alias`."""
    return f"""
    query ArtifactMembershipByName($entity: String!, $project: String!, $name: String!) {{
      project(name: $project, entityName: $entity) {{
        artifactCollectionMembership(name: $name) {{
          versionIndex createdAt aliases {{ alias }} {_PLACE}
          artifact {{ {_artifact_fields(with_algorithm)} }}
        }}
      }}
    }}
    """


def _logged_fields(with_algorithm: bool) -> str:
    return f"""
      {_artifact_fields(with_algorithm)}
      artifactSequence {{ __typename name project {{ name entity {{ name }} }} }}
      {_MEMBERSHIPS}
    """


def artifact_by_id(*, with_algorithm: bool) -> str:
    """Return the query for an artifact and the collections that it is in."""
    return f"""
    query ArtifactByID($id: ID!) {{ artifact(id: $id) {{ {_logged_fields(with_algorithm)} }} }}
    """


def artifacts_by_id(count: int, *, with_algorithm: bool) -> str:
    """Return the query for `count` artifacts, `a0` and on, by the ids `$id0` and on."""
    declared = ", ".join(f"$id{number}: ID!" for number in range(count))
    asked = " ".join(
        f"a{number}: artifact(id: $id{number}) {{ ...one }}" for number in range(count)
    )
    return f"""
    query ArtifactsByID({declared}) {{ {asked} }}
    fragment one on Artifact {{ {_logged_fields(with_algorithm)} }}
    """


MANIFEST = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

FILE_URLS = """
query ArtifactMembershipFiles(
  $entity: String!, $project: String!, $collection: String!, $alias: String!,
  $fileNames: [String!], $cursor: String, $perPage: Int
) {
  project(name: $project, entityName: $entity) {
    artifactCollection(name: $collection) {
      __typename
      artifactMembership(aliasName: $alias) {
        artifact { id }
        files(names: $fileNames, after: $cursor, first: $perPage) {
          pageInfo { endCursor hasNextPage }
          edges { node { name: displayName directUrl } }
        }
      }
    }
  }
}
"""

CREATOR = """
query ArtifactCreatedBy($id: ID!) {
  artifact(id: $id) {
    createdBy { __typename ... on Run { name project { name entity { name } } } }
  }
}
"""

USE_WITH_NAMES = "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION"
"""The feature of a server which takes the entity and the project of the name that was used."""


def use_artifact(*, with_names: bool) -> str:
    """Return the mutation that makes an artifact an input of a run."""
    names = ["artifactEntityName", "artifactProjectName"] if with_names else []
    declared = "".join(f", ${name}: String" for name in names)
    given = "".join(f", {name}: ${name}" for name in names)
    return f"""
    mutation UseArtifact(
      $entityName: String!, $projectName: String!, $runName: String!, $artifactID: ID!{declared}
    ) {{
      useArtifact(input: {{
        entityName: $entityName, projectName: $projectName, runName: $runName,
        artifactID: $artifactID{given}
      }}) {{ artifact {{ id }} }}
    }}
    """


ADD_ALIASES = """
mutation AddAliases($input: AddAliasesInput!) { addAliases(input: $input) { success } }
"""

DESCRIBE = """
mutation UpdateArtifact($input: UpdateArtifactInput!) {
  updateArtifact(input: $input) { artifact { id } }
}
"""
